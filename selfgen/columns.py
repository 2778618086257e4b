"""The data sources' columns: the one definition that jobs, Druid specs and Superset datasets follow.

A column is (name, Druid type, unit or format, human label). `__time` is the requirement's `timestamp`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from selfgen.messages import SET_ASIDE

DruidType = Literal["string", "double", "long"]


class Column(NamedTuple):
    """One column of a data source; `label` is what people read, `unit` is shown beside it."""

    name: str
    type: DruidType
    label: str
    unit: str = ""


#: Carried by every report and alarm; what a registry look-up gives, in this order.
ENRICHMENT = (
    Column("client_id", "string", "Client id"),
    Column("name", "string", "Name"),
    Column("apell_1", "string", "First surname"),
    Column("apell_2", "string", "Second surname"),
    Column("address", "string", "Address"),
    Column("postal_code", "string", "Postal code"),
    Column("client_type", "string", "Client type"),
    Column("model", "string", "Model"),
    Column("manufacture_date", "string", "Manufactured"),
    Column("install_date", "string", "Installed"),
    Column("latitude", "double", "Latitude", "°"),
    Column("longitude", "double", "Longitude", "°"),
    Column("time_zone", "string", "Time zone"),
)

_WHOSE = ("client_id", "name", "apell_1", "apell_2", "postal_code", "client_type", "time_zone")

_LOCAL = (
    Column("local_time", "string", "Local time with its offset"),
    Column("local_date", "string", "Local date"),
)

_ALARM = (
    Column("power_low", "double", "Energy below expected", "Wh"),
    Column("text_alarm", "string", "Alarm"),
    Column("code", "string", "Code"),
    Column("severity", "string", "Severity"),
    Column("state", "string", "State"),
    Column("started_at", "string", "Started"),
)

#: Reference slots of the differences, in the order of the columns that compare with them.
DIFFERENCES = ("hour", "day", "month", "quar", "six", "year")
#: Periods of the accumulators.
ACCUMULATORS = ("day", "month", "quarter", "semestre", "year")

#: What light sensors' slots add to the year's light (`selfgen.orientation`), Wh/m²: the vector of the light that comes
#: from the sun's direction, the sky's, and both under a clear sky (of the first the height only).
LIGHT_SUMS = ("beam_east", "beam_north", "beam_up", "sky", "clear_beam", "clear_sky")
#: What is kept beside them of slots under a clear sky (`selfgen.soiling`), Wh/m²: measured, and by the model of it.
CLEAR_SUMS = ("under_clear", "of_clear")

#: What a local day adds up of its slots: `completeness` and the slots that have one (`reported`), and of each
#: difference also the energy of the slots that have it.
DAY_SUMS = (
    Column("power_gen", "double", "Energy", "Wh"),
    Column("expected_gen", "double", "Expected energy", "Wh"),
    Column("estimated_gen", "double", "Energy spread over gaps", "Wh"),
    Column("judged_gen", "double", "Energy that is judged", "Wh"),
    Column("judged_expected", "double", "Energy expected of it", "Wh"),
    *(Column(f"diff_last_{name}", "double", f"Change from last {name}", "Wh") for name in DIFFERENCES),
    *(Column(f"compared_{name}", "double", f"Energy that is compared with last {name}", "Wh") for name in DIFFERENCES),
    Column("completeness", "double", "Sum of the slots' completeness"),
    Column("reported", "long", "Slots with a completeness"),
)

DATASOURCES: dict[str, tuple[Column, ...]] = {
    "panel_report": (
        Column("panel_id", "string", "Panel"),
        *ENRICHMENT,
        *_LOCAL,
        Column("power_gen", "double", "Energy", "Wh"),
        *(Column(f"diff_last_{name}", "double", f"Change from last {name}", "Wh") for name in DIFFERENCES),
        *(Column(f"acum_{name}", "double", f"Energy this {name}", "Wh") for name in ACCUMULATORS),
        Column("power_max", "double", "Greatest power", "W"),
        Column("expected_gen", "double", "Expected energy", "Wh"),
        Column("estimated_gen", "double", "Energy spread over gaps", "Wh"),
        Column("performance_ratio", "double", "Performance ratio"),
        Column("completeness", "double", "Completeness"),
        Column("samples", "long", "Samples"),
    ),
    # sums of panel_report's rows, for each panel and local day; of the rest only what people group and filter by
    "panel_day": (
        Column("panel_id", "string", "Panel"),
        Column("client_id", "string", "Client id"),
        Column("client", "string", "Client"),
        Column("postal_code", "string", "Postal code"),
        Column("province", "string", "Province, or the time zone elsewhere"),
        Column("area", "string", "Area"),
        Column("client_type", "string", "Client type"),
        Column("model", "string", "Model"),
        Column("latitude", "double", "Latitude", "°"),
        Column("longitude", "double", "Longitude", "°"),
        Column("local_date", "string", "Local date"),
        Column("local_month", "string", "Local month"),
        Column("local_clock", "long", "Local midnight as if it were UTC", "ms"),
        *DAY_SUMS,
        Column("power_max", "double", "Greatest power", "W"),
    ),
    "panel_alarm": (Column("panel_id", "string", "Panel"), *ENRICHMENT, *_ALARM),
    "sensor_report": (
        Column("light_id", "string", "Light sensor"),
        *ENRICHMENT,
        *_LOCAL,
        Column("irradiation", "double", "Irradiation", "Wh/m²"),
        Column("producible_gen", "double", "Producible energy", "Wh"),
        Column("optimal_tilt", "double", "Best tilt", "°"),
        Column("optimal_azimuth", "double", "Best azimuth", "°"),
        Column("gain_vs_horizontal", "double", "Gain over horizontal"),
        Column("confidence", "double", "Possible loss, 90 %"),
        Column("completeness", "double", "Completeness"),
        Column("samples", "long", "Samples"),
    ),
    "sensor_alarm": (Column("light_id", "string", "Light sensor"), *ENRICHMENT, *_ALARM),
    # 120 rows for each sensor and local day: so of the enrichment only what people filter by
    "light_surface": (
        Column("light_id", "string", "Light sensor"),
        *(column for column in ENRICHMENT if column.name in _WHOSE),
        Column("local_date", "string", "Local date"),
        Column("tilt", "double", "Tilt", "°"),
        Column("azimuth", "double", "Azimuth", "°"),
        Column("energy", "double", "Energy of a year", "kWh per kWp"),
        Column("relative", "double", "Share of the best"),
    ),
    "wind_report": (
        Column("wind_id", "string", "Wind sensor"),
        *ENRICHMENT,
        Column("wind_speed", "double", "Mean wind speed", "m/s"),
        Column("wind_gust", "double", "Gust", "m/s"),
        Column("wind_min", "double", "Least wind speed", "m/s"),
        Column("wind_direction", "double", "Wind direction", "°"),
        Column("samples", "long", "Samples"),
    ),
    "wind_alarm": (
        Column("wind_id", "string", "Wind sensor"),
        *ENRICHMENT,
        Column("wind_speed", "double", "Wind speed", "m/s"),
        *(column for column in _ALARM if column.name != "power_low"),
    ),
    "topic_performance": (
        Column("topic_id", "string", "Topic"),
        Column("partition", "long", "Partition"),
        Column("consumer", "string", "Consumer"),
        Column("messages", "long", "Messages"),
        Column("bytes", "long", "Bytes"),
        Column("rejected", "long", "Refused"),
        Column("duplicates", "long", "Duplicates"),
        Column("lag", "long", "Lag"),
        Column("delay_p50", "double", "Delay, median", "s"),
        Column("delay_p95", "double", "Delay, 95 %", "s"),
        Column("delay_p99", "double", "Delay, 99 %", "s"),
        Column("delay_max", "double", "Delay, greatest", "s"),
        *(Column(f"refused_{reason}", "long", f"Refused: {reason.replace('_', ' ')}") for reason in SET_ASIDE),
    ),
}

#: Loaded from Kafka as they come, by the hour from files, or made by Druid of another one's rows.
STREAMED = ("wind_report", "wind_alarm", "topic_performance")
BATCHED = ("panel_report", "panel_alarm", "sensor_report", "sensor_alarm", "light_surface")
ROLLED_UP = {"panel_day": "panel_report"}


def names(datasource: str) -> tuple[str, ...]:
    """Return the column names of a data source, without `__time`."""
    return tuple(column.name for column in DATASOURCES[datasource])
