"""The registry's documents: clients, elements, and who has which element since when.

Field names are the stores' own (requirement, "Modelo de datos - Enriquecimiento"). Documents are JSON by
`msgspec.json.encode`; dates are RFC 3339 instants in UTC. Keys: `client::ID`, `panel::ID`, `sensor_light::ID`,
`sensor_wind::ID`, and `clients_rel::KIND::ID`, which holds all periods of one element.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Kind = Literal["panel", "light", "wind"]

Text = Annotated[str, Meta(max_length=200)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Tilt = Annotated[float, Meta(ge=0, le=90, description="degrees from horizontal")]
Azimuth = Annotated[float, Meta(ge=0, lt=360, description="degrees clockwise from north")]

#: document family in Couchbase, and the element's id field, by kind
DOCUMENT = {"panel": "panel", "light": "sensor_light", "wind": "sensor_wind"}
ID_FIELD = {"panel": "panel_id", "light": "light_id", "wind": "wind_id"}


class Client(Struct, kw_only=True, omit_defaults=True):
    """A client (company or person) and the site it is known by."""

    client_id: str
    name: Text
    apell_1: Text = ""
    apell_2: Text = ""
    address: Text = ""
    postal_code: Text = ""
    client_signature: Text = ""
    client_type: Text = ""
    open_date: datetime | None = None
    end_date: datetime | None = None
    latitude: Latitude
    longitude: Longitude
    time_zone: str


class Element(Struct, kw_only=True, omit_defaults=True):
    """What every element has."""

    model: Text = ""
    manufacture_date: datetime | None = None
    install_date: datetime | None = None
    live_cicle: NotNegative | None = None  # years
    variable_data: dict[str, Any] = field(default_factory=dict)
    end_date: datetime | None = None


class Panel(Element, kw_only=True, omit_defaults=True):
    """A solar panel (or string): `power_cap` in W peak, `tilt` and `azimuth` in degrees."""

    panel_id: str
    power_cap: Positive
    panel_price: NotNegative | None = None
    panel_sold: NotNegative | None = None
    tilt: Tilt | None = None
    azimuth: Azimuth | None = None


class LightSensor(Element, kw_only=True, omit_defaults=True):
    """A pyranometer; `power_cap` in W peak is that of the panel that could stand there."""

    light_id: str
    power_cap: Positive
    sensor_price: NotNegative | None = None


class WindSensor(Element, kw_only=True, omit_defaults=True):
    """An anemometer."""

    wind_id: str
    sensor_price: NotNegative | None = None


class Period(Struct, kw_only=True, omit_defaults=True):
    """*Client has element* over the half-open `[init_date, end_date)`; an open end is None.

    The site fields, where given, take precedence over the client's.
    """

    client_id: str
    init_date: datetime
    end_date: datetime | None = None
    address: Text | None = None
    postal_code: Text | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    variable_data: dict[str, Any] = field(default_factory=dict)


class Relations(Struct, kw_only=True):
    """All periods of one element, in order of time, never overlapping; the document `clients_rel::KIND::ID`."""

    kind: Kind
    element_id: str
    periods: list[Period]


ELEMENT_TYPES: dict[Kind, type[Panel] | type[LightSensor] | type[WindSensor]] = {
    "panel": Panel,
    "light": LightSensor,
    "wind": WindSensor,
}
