"""The one form of benchmarks and failure tests."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks
from benchmarks.form import Figure, measure, names
from selfgen.cli import app
from selfgen.settings import Settings, get_settings

MODULE = '''"""Counts beans.

More of it.
"""
from benchmarks.form import Figure


def run(settings):
    return [Figure("beans", {beans}, "beans/s", peer=50, bar=(">=", 100)), Figure("pods", 3, "pods")]
'''


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules of a benchmark that holds, one that misses, and a failure test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, beans in (("enough", 120), ("scarce", 80), ("chaos_hail", 100)):
        (folder / f"{name}.py").write_text(MODULE.replace("{beans}", str(beans)))
        monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    # none of the real ones, which would really run
    monkeypatch.setattr(benchmarks, "__path__", [str(folder)])
    monkeypatch.setenv("SELFGEN_BUILD_DIR", str(tmp_path / "build"))
    get_settings.cache_clear()
    yield tmp_path / "build"
    get_settings.cache_clear()


def test_what_is_drawn_at_random_can_be_drawn_otherwise(built: Path) -> None:
    drawn = MODULE.replace("run(settings)", "run(settings, seed=7)").replace("{beans}", "100 + seed")
    (built.parent / "modules" / "drawn.py").write_text(drawn)
    assert [measure("bench", "drawn", get_settings(), seed)[0].value for seed in (None, 3)] == [107, 103]
    assert json.loads((built / "bench" / "drawn.json").read_text())["seed"] == 3
    told = CliRunner().invoke(app, ["bench", "enough", "--seed", "3"])
    assert told.exit_code == 1
    assert "draws nothing at random" in told.output


@pytest.mark.parametrize(
    ("value", "bar", "holds"),
    [
        (100, (">=", 100), True),
        (99.9, (">=", 100), False),
        (1.1, ("<=", 1.1), True),
        (1.2, ("<=", 1.1), False),
        (0, ("==", 0), True),
        (1, ("==", 0), False),
        (1, None, None),
    ],
)
def test_a_bar_holds_or_not(value: float, bar: tuple[str, float] | None, holds: bool | None) -> None:
    figure = Figure("it", value, "s", bar=bar)  # type: ignore[arg-type]
    assert figure.holds is holds
    assert figure.as_json()["holds"] is holds


def test_names_come_from_the_modules(built: Path) -> None:
    assert names("bench") == {"enough": "enough", "scarce": "scarce"}
    assert names("chaos") == {"hail": "chaos_hail"}


def test_what_a_benchmark_needs_is_not_one_itself() -> None:
    assert "simulator" in names("bench")
    assert "form" not in names("bench")


def test_report_has_machine_date_and_figures(built: Path) -> None:
    measure("bench", "enough", Settings(build_dir=built))
    report = json.loads((built / "bench" / "enough.json").read_text())
    assert report["figures"] == [
        {"name": "beans", "value": 120, "unit": "beans/s", "peer": 50, "bar": ">= 100", "holds": True},
        {"name": "pods", "value": 3, "unit": "pods", "peer": None, "bar": None, "holds": None},
    ]
    assert report["name"] == "enough"
    assert report["machine"]["cores"] >= 1
    assert report["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bench", "enough"], 0, "holds"),
        (["bench", "scarce"], 1, "below the bar: scarce: beans"),
        (["bench", "nothing"], 1, "there is no bench nothing"),
        (["chaos", "hail"], 0, "holds"),
        (["chaos", "all"], 0, "holds"),
        (["bench"], 0, "Counts beans."),
    ],
)
def test_command_prints_and_tells_by_its_exit_code(built: Path, arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code
    assert said in result.output


def test_failure_tests_have_their_own_folder(built: Path) -> None:
    assert CliRunner().invoke(app, ["chaos", "hail"]).exit_code == 0
    assert (built / "chaos" / "hail.json").exists()
