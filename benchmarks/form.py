"""The one form of every benchmark and failure test.

A module `benchmarks/NAME.py` (a failure test: `benchmarks/chaos_NAME.py`) has a docstring, whose first line is shown
in the help, and ``run(settings) -> list[Figure]``, with a `seed` if it draws at random. `measure` runs it and writes
`build/bench/NAME.json` (`build/chaos/NAME.json`).
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import pkgutil
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

import benchmarks
from selfgen.settings import Settings

Sort = Literal["bench", "chaos"]

_CHAOS = "chaos_"
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Figure:
    """One measured figure, the peer's in the same run, and the bar it has to hold.

    Parameters
    ----------
    name
        What was measured.
    value, unit
        How much.
    peer
        The same of the peer, if there is one.
    bar
        ``(">=" | "<=" | "==", limit)``, or None where there is none.
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    bar: tuple[Literal[">=", "<=", "=="], float] | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; None without one."""
        return None if self.bar is None else bool(_COMPARISONS[self.bar[0]](self.value, self.bar[1]))

    def as_json(self) -> dict[str, Any]:
        """Return the figure as it is written."""
        bar = None if self.bar is None else f"{self.bar[0]} {self.bar[1]:g}"
        return asdict(self) | {"bar": bar, "holds": self.holds}


def names(sort: Sort) -> dict[str, str]:
    """Return the benchmarks, or the failure tests, by name, with the module of each."""
    modules = [found.name for found in pkgutil.iter_modules(benchmarks.__path__)]
    if sort == "chaos":
        return {name.removeprefix(_CHAOS): name for name in modules if name.startswith(_CHAOS)}
    return {name: name for name in modules if not name.startswith(_CHAOS) and _runs(name)}


def _runs(module: str) -> bool:
    return hasattr(importlib.import_module(f"benchmarks.{module}"), "run")


def summary(module: str) -> str:
    """Return the first line of a module's docstring."""
    return (importlib.import_module(f"benchmarks.{module}").__doc__ or "").strip().partition("\n")[0]


def measure(sort: Sort, name: str, settings: Settings, seed: int | None = None) -> list[Figure]:
    """Run one, write its JSON file, and return its figures.

    Parameters
    ----------
    seed
        What is drawn at random, where its `run` takes a seed, and other than its own.

    Raises
    ------
    KeyError
        There is none of this name.
    TypeError
        It takes no seed.
    """
    module = importlib.import_module(f"benchmarks.{names(sort)[name]}")
    began = datetime.now(UTC)
    given = {} if seed is None else {"seed": seed}
    figures: list[Figure] = module.run(settings, **given)
    report = {
        "name": name,
        **given,
        "machine": machine(),
        "date": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 1),
        "figures": [figure.as_json() for figure in figures],
    }
    path = report_path(sort, name, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return figures


def report_path(sort: Sort, name: str, settings: Settings) -> Path:
    """Return where the report of one is written."""
    return settings.build_dir / sort / f"{name}.json"


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, memory, system, and how busy it was."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
