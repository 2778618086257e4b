"""The simulated installations."""

from zoneinfo import ZoneInfo

import pytest

from selfgen.registry import Kind
from selfgen.simulation.fleet import AREAS, KINDS, demo_fleet, make_fleet


def murmur2(key: bytes) -> int:
    """Kafka's own hash of a key (org.apache.kafka.common.utils.Utils.murmur2), made positive."""
    multiplier, bits = 0x5BD1E995, 0xFFFFFFFF
    value = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for place in range(0, whole, 4):
        word = int.from_bytes(key[place : place + 4], "little") * multiplier & bits
        word = (word ^ word >> 24) * multiplier & bits
        value = (value * multiplier & bits) ^ word
    if rest := key[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & bits
    value = (value ^ value >> 13) * multiplier & bits
    return (value ^ value >> 15) & 0x7FFFFFFF


def test_hash_is_kafkas() -> None:
    # from Kafka's own UtilsTest.testMurmur2
    assert murmur2(b"21") == -973932308 & 0x7FFFFFFF
    assert murmur2(b"foobar") == -790332482 & 0x7FFFFFFF


def test_demo_fleet_is_what_it_says() -> None:
    fleet = demo_fleet()
    assert {kind: len(fleet.elements(kind)) for kind in KINDS} == {"wind": 6, "light": 6, "panel": 12}
    zones = {client.time_zone for client in fleet.clients}
    assert zones == {"Europe/Madrid", "America/Denver", "Asia/Kathmandu", "Australia/Lord_Howe", "Atlantic/Canary"}
    assert len({client.postal_code for client in fleet.clients}) == 5
    assert len({client.client_id for client in fleet.owners("light")}) == len(fleet.clients)
    assert {panel.azimuth for panel in fleet.panels} >= {0, 90, 180, 270}
    assert fleet == demo_fleet()


def test_demo_wind_sensors_reach_both_partitions() -> None:
    assert {murmur2(key.encode()) % 2 for key in demo_fleet().ids("wind")} == {0, 1}


@pytest.mark.parametrize("installations", [1, 17, 300])
def test_any_number_of_installations(installations: int) -> None:
    fleet = make_fleet(installations, seed=3, panels=2, lights=1, winds=3)
    assert [len(fleet.elements(kind)) for kind in KINDS] == [3 * installations, installations, 2 * installations]
    assert len(fleet.installations) == 6 * installations
    for kind in KINDS:
        assert len(set(fleet.ids(kind))) == len(fleet.ids(kind))
    assert len({client.client_id for client in fleet.clients}) == installations
    assert {client.time_zone for client in fleet.clients} == {area.time_zone for area in AREAS[:installations]}
    for panel, client in zip(fleet.panels, fleet.owners("panel"), strict=True):
        ZoneInfo(client.time_zone)
        # within 60 degrees of the equator's direction
        towards = 180 if client.latitude > 0 else 0
        assert panel.azimuth is not None
        assert abs((panel.azimuth - towards + 180) % 360 - 180) <= 60


def test_same_seed_same_fleet() -> None:
    assert make_fleet(20, seed=1) == make_fleet(20, seed=1)
    assert make_fleet(20, seed=1) != make_fleet(20, seed=2)


def test_kinds_can_be_left_out() -> None:
    fleet = make_fleet(5, panels=0, lights=0)
    kinds: set[Kind] = {installation.kind for installation in fleet.installations}
    assert kinds == {"wind"}
    assert fleet.panels == fleet.lights == ()
