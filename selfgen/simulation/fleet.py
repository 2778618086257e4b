"""Installations to simulate: clients in real places, their panels and sensors, and who has which since when.

>>> fleet = demo_fleet()
>>> len(fleet.panels), len(fleet.lights), len(fleet.winds)
(12, 6, 6)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from selfgen.registry import ELEMENT_TYPES, ID_FIELD, Client, Kind, LightSensor, Panel, WindSensor

KINDS: tuple[Kind, ...] = ("wind", "light", "panel")

#: Since when every simulated element stands where it does.
SINCE = datetime(2020, 1, 1, tzinfo=UTC)


class Installation(Struct, frozen=True):
    """*Client has element*, from `init_date` on."""

    kind: Kind
    element_id: str
    client_id: str
    init_date: datetime


class Fleet(Struct, frozen=True, dict=True):
    """Clients, their elements and who has which; the order of elements is part of the simulation."""

    clients: tuple[Client, ...]
    panels: tuple[Panel, ...]
    lights: tuple[LightSensor, ...]
    winds: tuple[WindSensor, ...]
    installations: tuple[Installation, ...]

    def elements(self, kind: Kind) -> tuple[Any, ...]:
        """Return the elements of one kind."""
        return {"panel": self.panels, "light": self.lights, "wind": self.winds}[kind]

    def ids(self, kind: Kind) -> list[str]:
        """Return the element ids of one kind, in the order of `elements`."""
        return [getattr(element, ID_FIELD[kind]) for element in self.elements(kind)]

    def owners(self, kind: Kind) -> list[Client]:
        """Return the client of each element of one kind, in the order of `elements`."""
        return [self._owner[kind, element_id] for element_id in self.ids(kind)]

    @cached_property
    def _owner(self) -> dict[tuple[Kind, str], Client]:
        clients = {client.client_id: client for client in self.clients}
        return {(item.kind, item.element_id): clients[item.client_id] for item in self.installations}


class Area(NamedTuple):
    """A real place; `latitude` and `longitude` in degrees."""

    city: str
    postal_code: str
    latitude: float
    longitude: float
    time_zone: str


#: Areas of both hemispheres; whole, half and quarter-hour zones, with and without daylight saving time.
AREAS = (
    Area("Madrid", "28013", 40.4168, -3.7038, "Europe/Madrid"),
    Area("Golden", "80401", 39.7555, -105.2211, "America/Denver"),
    Area("Kathmandu", "44600", 27.7172, 85.3240, "Asia/Kathmandu"),
    Area("Lord Howe Island", "2898", -31.5525, 159.0810, "Australia/Lord_Howe"),
    Area("Las Palmas", "35001", 28.1235, -15.4363, "Atlantic/Canary"),
    Area("Santiago", "8320000", -33.4489, -70.6693, "America/Santiago"),
    Area("Sevilla", "41001", 37.3891, -5.9845, "Europe/Madrid"),
    Area("Greensboro", "27409", 36.1000, -79.9500, "America/New_York"),
)


class _Site(NamedTuple):
    client_id: str
    name: str
    apell_1: str
    apell_2: str
    client_type: str
    address: str
    area: Area
    panels: tuple[tuple[float, float, float], ...]  # W peak, tilt °, azimuth °
    winds: int


_DEMO = (
    _Site("client-001", "Lucía", "Moreno", "Vidal", "person", "Calle Mayor 12", AREAS[0],
          ((4600.0, 30.0, 180.0), (4600.0, 30.0, 180.0), (2300.0, 15.0, 270.0)), 1),
    _Site("client-002", "Panificadora del Manzanares", "", "", "company", "Calle del Arenal 5", AREAS[0],
          ((25000.0, 10.0, 90.0), (25000.0, 10.0, 270.0)), 1),
    _Site("client-003", "Foothills Climbing Gym", "", "", "company", "1310 Washington Avenue", AREAS[1],
          ((12000.0, 35.0, 180.0), (6000.0, 35.0, 225.0)), 1),
    _Site("client-004", "Anjali", "Shrestha", "", "person", "Thamel Marg 41", AREAS[2],
          ((3200.0, 25.0, 180.0), (3200.0, 25.0, 150.0)), 1),
    _Site("client-005", "Oliver", "Wilson", "", "person", "Lagoon Road 7", AREAS[3],
          ((5500.0, 30.0, 0.0),), 1),
    _Site("client-006", "Bodegas Montaña Clara", "", "", "company", "Calle Triana 88", AREAS[4],
          ((9200.0, 20.0, 180.0), (9200.0, 20.0, 135.0)), 1),
)  # fmt: skip


def demo_fleet() -> Fleet:
    """Return the demo's: 6 clients in 5 areas and time zones, 12 panels, 6 light and 6 wind sensors."""
    return _fleet(_DEMO, since=SINCE)


def make_fleet(
    installations: int,
    seed: int = 0,
    *,
    panels: int = 2,
    lights: int = 1,
    winds: int = 1,
    since: datetime = SINCE,
) -> Fleet:
    """Return any number of installations, spread over `AREAS`, each within 3 km or so of its area's centre.

    Parameters
    ----------
    installations
        Number of sites, one client each.
    seed
        The same seed gives the same fleet.
    panels, lights, winds
        Elements of each kind at every site.
    since
        Start of every *client has element*.
    """
    random = np.random.default_rng(seed)
    shifts = random.uniform(-0.03, 0.03, (installations, 2)).round(5).tolist()
    # strings of 300 W modules, tilted like roofs, around the direction of the equator
    capacities = (300.0 * random.integers(8, 60, (installations, panels))).tolist()
    tilts = random.integers(5, 46, (installations, panels)).astype(float).tolist()
    turns = random.integers(-60, 61, (installations, panels)).tolist()
    width = len(str(installations))

    def site(number: int) -> _Site:
        centre = AREAS[number % len(AREAS)]
        north, east = shifts[number]
        area = centre._replace(latitude=centre.latitude + north, longitude=centre.longitude + east)
        equator = 180 if area.latitude > 0 else 0
        azimuths = [float((equator + turn) % 360) for turn in turns[number]]
        strings = tuple(zip(capacities[number], tilts[number], azimuths, strict=True))
        name = f"Site {number + 1}"
        return _Site(f"client-{number + 1:0{width}}", name, "", "", "company", name, area, strings, winds)

    return _fleet([site(number) for number in range(installations)], since=since, lights=lights)


def _fleet(sites: Sequence[_Site], *, since: datetime, lights: int = 1) -> Fleet:
    clients: list[Client] = []
    elements: dict[Kind, list[Any]] = {"panel": [], "light": [], "wind": []}
    installations: list[Installation] = []
    made = since - timedelta(days=200)

    def add(kind: Kind, client_id: str, **fields: Any) -> None:
        element_id = f"{kind}-{len(elements[kind]) + 1:03}"
        fields |= {
            ID_FIELD[kind]: element_id,
            "manufacture_date": made.date(),
            "install_date": since.date(),
            "live_cicle": 25.0,
        }
        elements[kind].append(ELEMENT_TYPES[kind](**fields))
        installations.append(Installation(kind, element_id, client_id, since))

    for site in sites:
        clients.append(
            Client(
                client_id=site.client_id,
                name=site.name,
                apell_1=site.apell_1,
                apell_2=site.apell_2,
                address=f"{site.address}, {site.area.city}",
                postal_code=site.area.postal_code,
                client_type=site.client_type,
                open_date=since.date(),
                latitude=round(site.area.latitude, 5),
                longitude=round(site.area.longitude, 5),
                time_zone=site.area.time_zone,
            )
        )
        for power_cap, tilt, azimuth in site.panels:
            model, price = f"Mono {power_cap / 1000:g} kW", round(0.9 * power_cap, 2)
            add("panel", site.client_id, model=model, power_cap=power_cap, panel_price=price,
                tilt=tilt, azimuth=azimuth)  # fmt: skip
        for _ in range(lights):
            add("light", site.client_id, model="Thermopile pyranometer", power_cap=5000.0, sensor_price=900.0)
        for _ in range(site.winds):
            add("wind", site.client_id, model="Cup anemometer", sensor_price=250.0)

    return Fleet(
        clients=tuple(clients),
        panels=tuple(elements["panel"]),
        lights=tuple(elements["light"]),
        winds=tuple(elements["wind"]),
        installations=tuple(installations),
    )
