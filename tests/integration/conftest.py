"""The real stack for integration tests: started by the run itself, on ports that are free, and left empty after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from selfgen.settings import Settings
from stack import lifecycle
from stack.supervisor import leftovers
from tests.ports import free_port_base, use


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
