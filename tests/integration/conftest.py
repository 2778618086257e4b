"""The real stack for integration tests: started by the run itself, on ports that are free, and left empty after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfgen.settings import Settings
from stack import lifecycle
from stack.supervisor import leftovers
from tests.ports import free_port_base, use

HERE = Path(__file__).parent
#: Modules that start many servers come last, for whatever runs beside those takes longer; the longest first of them.
#: Druid's counts what is in the topics that the wind's fill. (Several processes keep this order if pytest-xdist is told
#: not to make its own.)
MANY_SERVERS = (
    *("test_batch", "test_druid", "test_wind_history", "test_rich_sensor_wind", "test_write_sensor_wind"),
    *("test_wind_commands", "test_light", "test_panel_oracle", "test_superset_dashboards"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with few servers first, without moving those of other folders."""
    own = [number for number, item in enumerate(items) if item.path.parent == HERE]
    servers = {name: number for number, name in enumerate(MANY_SERVERS)}
    ordered = sorted((items[number] for number in own), key=lambda item: servers.get(item.path.stem, -1))
    for number, item in zip(own, ordered, strict=True):
        items[number] = item


class Stack:
    """The stack of this run: `settings` say where it is, `up` starts what a test needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def up(self, *names: str) -> None:
        lifecycle.up(self.settings, names)

    def down(self, *names: str) -> None:
        lifecycle.down(self.settings, names)

    def pid(self, name: str) -> int:
        return next(state.pid for state in lifecycle.status(self.settings) if state.name == name)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    base = free_port_base()
    settings = use(base, f"test-{base}")
    shutil.rmtree(settings.build_dir, ignore_errors=True)
    yield Stack(settings)
    lifecycle.down(settings)
    assert leftovers(settings) == []
    shutil.rmtree(settings.build_dir, ignore_errors=True)
