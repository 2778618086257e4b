"""Columns that Druid makes of others as it takes rows in: what people group and filter by.

They are made there and not in queries, where every row would be looked at each time.

>>> [column.name for column in derived("panel_report")]
['client', 'province', 'area', 'local_clock', 'local_month', 'judged_gen', 'judged_expected']
"""

from __future__ import annotations

import json

from selfgen.columns import DATASOURCES, Column, names

#: Spain's provinces by the first two digits of their postal codes, which are the statistical institute's.
PROVINCES = {
    "01": "Álava", "02": "Albacete", "03": "Alicante", "04": "Almería", "05": "Ávila", "06": "Badajoz",
    "07": "Illes Balears", "08": "Barcelona", "09": "Burgos", "10": "Cáceres", "11": "Cádiz", "12": "Castellón",
    "13": "Ciudad Real", "14": "Córdoba", "15": "A Coruña", "16": "Cuenca", "17": "Girona", "18": "Granada",
    "19": "Guadalajara", "20": "Gipuzkoa", "21": "Huelva", "22": "Huesca", "23": "Jaén", "24": "León",
    "25": "Lleida", "26": "La Rioja", "27": "Lugo", "28": "Madrid", "29": "Málaga", "30": "Murcia",
    "31": "Navarra", "32": "Ourense", "33": "Asturias", "34": "Palencia", "35": "Las Palmas", "36": "Pontevedra",
    "37": "Salamanca", "38": "Santa Cruz de Tenerife", "39": "Cantabria", "40": "Segovia", "41": "Sevilla",
    "42": "Soria", "43": "Tarragona", "44": "Teruel", "45": "Toledo", "46": "Valencia", "47": "Valladolid",
    "48": "Bizkaia", "49": "Zamora", "50": "Zaragoza", "51": "Ceuta", "52": "Melilla",
}  # fmt: skip
#: Where those postal codes are.
SPANISH_CLOCKS = ("Europe/Madrid", "Atlantic/Canary", "Africa/Ceuta")

_NAME = "trim(concat(nvl(name, ''), ' ', nvl(apell_1, ''), ' ', nvl(apell_2, '')))"
_CLIENT = f"if(isnull(client_id), null, trim(concat({_NAME}, ' (', client_id, ')')))"
_CODES = ", ".join(f"'{code}', '{name}'" for code, name in PROVINCES.items())
_IN_SPAIN = " || ".join(f"time_zone == '{zone}'" for zone in SPANISH_CLOCKS)
_PROVINCE = f"if({_IN_SPAIN}, nvl(case_simple(substring(postal_code, 0, 2), {_CODES}), time_zone), time_zone)"
_AREA = f"if(isnull(postal_code), null, trim(concat(postal_code, ' ', nvl({_PROVINCE}, ''))))"
_JUDGED = ("performance_ratio", "expected_gen", "completeness")
# in a CSV file numbers come as texts
_RATIO, *_OF_COVERED = (f"cast({name}, 'DOUBLE')" for name in _JUDGED)
_COVERED = " * ".join(_OF_COVERED)
_CLOCK = "timestamp_parse(substring(local_time, 0, 19))"

#: Column, Druid's expression of it, and the columns that this reads. Two clients may have one name, and two countries
#: one postal code: each is told with what tells them apart.
DERIVED = (
    (Column("client", "string", "Client"), _CLIENT, ("client_id", "name", "apell_1", "apell_2")),
    (Column("province", "string", "Province, or the time zone elsewhere"), _PROVINCE, ("postal_code", "time_zone")),
    (Column("area", "string", "Area"), _AREA, ("postal_code", "time_zone")),
    (Column("local_clock", "long", "Local time as if it were UTC", "ms"), _CLOCK, ("local_time",)),
    (Column("local_month", "string", "Local month"), "substring(local_time, 0, 7)", ("local_time",)),
    (Column("judged_gen", "double", "Energy that is judged", "Wh"), f"{_RATIO} * {_COVERED}", _JUDGED),
    (
        Column("judged_expected", "double", "Energy expected of it", "Wh"),
        f"if(isnull({_RATIO}), null, {_COVERED})",
        _JUDGED,
    ),
)

#: The expressions as they stand in a specification's JSON text, by column.
EXPRESSIONS = {column.name: json.dumps(expression, ensure_ascii=False)[1:-1] for column, expression, _ in DERIVED}


def derived(datasource: str) -> tuple[Column, ...]:
    """Return the columns that Druid adds to a data source: those whose sources it has."""
    written = set(names(datasource))
    return tuple(column for column, _, sources in DERIVED if written.issuperset(sources))


def stored(datasource: str) -> tuple[Column, ...]:
    """Return all columns of a data source as Druid has it, without `__time`: first those that are written."""
    return (*DATASOURCES[datasource], *derived(datasource))
