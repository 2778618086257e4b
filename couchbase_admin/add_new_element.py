"""Process `add_new_element`: register a panel, a light sensor or an anemometer.

    python -m couchbase_admin.add_new_element panel P-17 --model "Solaria 400" --tilt 30 --azimuth 180

The same as `selfgen element add panel …`. What the element has in common with others of its model comes from the
catalogue (`selfgen model add`). On a terminal, what is missing is asked for.
"""

from __future__ import annotations

from typing import Annotated

import typer

from couchbase_admin.elements import add_element, element_of
from couchbase_admin.terminal import AsJson, DryRun, Operator, fields_of, registry, said
from selfgen.registry import ELEMENT_TYPES, ID_FIELD, Kind, id_of

__all__ = ["add_element", "app", "element_of"]

app = typer.Typer(no_args_is_help=True, help="Register an element: a panel, a light sensor or an anemometer.")

Model = Annotated[str | None, typer.Option(help="Model; the catalogue's entry gives what is not given here.")]
Made = Annotated[str | None, typer.Option(metavar="DATE", help="Day it was manufactured.")]
Installed = Annotated[str | None, typer.Option(metavar="DATE", help="Day it was installed.")]
LifeCycle = Annotated[str | None, typer.Option(metavar="YEARS", help="Life cycle, years.")]
VariableData = Annotated[str | None, typer.Option(metavar="JSON", help="Anything else, as a JSON object.")]
Price = Annotated[str | None, typer.Option(metavar="PRICE", help="Price it was bought for.")]


@app.command()
def panel(
    panel_id: Annotated[str | None, typer.Argument(help="Id the panel sends in its messages.")] = None,
    model: Model = None,
    power_cap: Annotated[str | None, typer.Option(metavar="W", help="Rating, W peak.")] = None,
    tilt: Annotated[str | None, typer.Option(metavar="DEGREES", help="From horizontal, 0 to 90.")] = None,
    azimuth: Annotated[str | None, typer.Option(metavar="DEGREES", help="Clockwise from north; 180: south.")] = None,
    manufacture_date: Made = None,
    install_date: Installed = None,
    live_cicle: LifeCycle = None,
    panel_price: Price = None,
    panel_sold: Annotated[str | None, typer.Option(metavar="PRICE", help="Price it was sold for.")] = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register a solar panel."""
    fields = {
        "panel_id": panel_id,
        "model": model,
        "power_cap": power_cap,
        "tilt": tilt,
        "azimuth": azimuth,
        "manufacture_date": manufacture_date,
        "install_date": install_date,
        "live_cicle": live_cicle,
        "panel_price": panel_price,
        "panel_sold": panel_sold,
        "variable_data": variable_data,
    }
    _add("panel", fields, operator, dry_run=dry_run, as_json=as_json)


@app.command()
def light(
    light_id: Annotated[str | None, typer.Argument(help="Id the sensor sends in its messages.")] = None,
    model: Model = None,
    power_cap: Annotated[
        str | None, typer.Option(metavar="W", help="Rating of the panel that could stand there, W peak.")
    ] = None,
    manufacture_date: Made = None,
    install_date: Installed = None,
    live_cicle: LifeCycle = None,
    sensor_price: Price = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register a light sensor (pyranometer)."""
    fields = {
        "light_id": light_id,
        "model": model,
        "power_cap": power_cap,
        "manufacture_date": manufacture_date,
        "install_date": install_date,
        "live_cicle": live_cicle,
        "sensor_price": sensor_price,
        "variable_data": variable_data,
    }
    _add("light", fields, operator, dry_run=dry_run, as_json=as_json)


@app.command()
def wind(
    wind_id: Annotated[str | None, typer.Argument(help="Id the anemometer sends in its messages.")] = None,
    model: Model = None,
    manufacture_date: Made = None,
    install_date: Installed = None,
    live_cicle: LifeCycle = None,
    sensor_price: Price = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register a wind sensor (anemometer)."""
    fields = {
        "wind_id": wind_id,
        "model": model,
        "manufacture_date": manufacture_date,
        "install_date": install_date,
        "live_cicle": live_cicle,
        "sensor_price": sensor_price,
        "variable_data": variable_data,
    }
    _add("wind", fields, operator, dry_run=dry_run, as_json=as_json)


def _add(kind: Kind, texts: dict[str, str | None], operator: str | None, *, dry_run: bool, as_json: bool) -> None:
    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        models = {"model": lambda: store.ids(f"model::{kind}")}
        fields = fields_of(ELEMENT_TYPES[kind], texts, [ID_FIELD[kind]], models)
        element = element_of(store, kind, fields)
        changed = add_element(store, element)
        said(changed, f"{kind} {id_of(element)} is registered", element, dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    app()
