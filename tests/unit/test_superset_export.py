"""An export laid over the files changes what was changed, and no other character."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfgen.clients.superset import ASSETS, read_assets
from selfgen.clients.superset_export import _charts, _text, _yaml, in_the_form_of, rewrite
from selfgen.settings import Settings

FILES = sorted(ASSETS.rglob("*.yaml"))
STATED = read_assets(Settings(_env_file=None))


def laid_over(folder: Path, name: str, exported: dict[str, Any]) -> list[str]:
    """Lay an export over a copy of a file; return the lines that went and came."""
    path = folder / Path(name).name
    text = (ASSETS / name).read_text()
    path.write_text(text)
    changed = rewrite(path, copy.deepcopy(STATED[name]), exported)
    lines = list(difflib.ndiff(text.splitlines(), path.read_text().splitlines()))
    differing = [line for line in lines if line[0] in "+-"]
    assert changed == bool(differing)
    return differing


def as_exported(name: str) -> dict[str, Any]:
    """Return an asset with what Superset's export adds of its own."""
    exported = copy.deepcopy(STATED[name])
    exported |= {"certified_by": None, "external_url": None, "is_managed_externally": False, "theme_uuid": None}
    return exported


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_written_as_it_was_read(path):
    written = _text(_yaml().load(path.read_text()))
    assert in_the_form_of(path.read_text(), written, written) == path.read_text()


def test_a_changed_line_leaves_the_breaks_of_the_others():
    original = "a: {x: one, y: [1,\n    2]}\n# why\nb: two words\n  and more\nc: 3\n"
    document = _yaml().load(original)
    before = _text(document)
    assert before == "a: {x: one, y: [1, 2]}\n# why\nb: two words and more\nc: 3\n"
    document["c"] = 4
    assert in_the_form_of(original, before, _text(document)) == original.replace("c: 3", "c: 4")
    document["b"] = "two"
    assert in_the_form_of(original, before, _text(document)).splitlines()[3:] == ["b: two", "c: 4"]
    assert in_the_form_of("other: text\n", before, "c: 5\n") == "c: 5\n"


@pytest.mark.parametrize("name", [name for name in STATED if name != "metadata.yaml"])
def test_what_superset_adds_of_its_own_changes_nothing(tmp_path, name):
    assert laid_over(tmp_path, name, as_exported(name)) == []


def test_a_changed_parameter_is_the_only_change(tmp_path):
    exported = as_exported("charts/energy_total.yaml")
    exported["params"]["header_font_size"] = 0.4
    assert laid_over(tmp_path, "charts/energy_total.yaml", exported) == [
        "-   header_font_size: 0.5",
        "+   header_font_size: 0.4",
    ]


def test_a_parameter_taken_out_goes_and_a_new_one_comes(tmp_path):
    exported = as_exported("charts/energy_total.yaml")
    del exported["params"]["subtitle_font_size"]
    exported["params"] |= {"show_timestamp": True, "datasource": "3__table", "extra_form_data": {}}
    exported["query_context"] = '{"datasource": {"id": 3}}'
    assert laid_over(tmp_path, "charts/energy_total.yaml", exported) == [
        "-   subtitle_font_size: 0.2",
        "+   show_timestamp: true",
    ]


def test_a_changed_and_a_new_metric_keep_the_form_of_the_others(tmp_path):
    exported = as_exported("datasets/druid/panel_report.yaml")
    metrics = {metric["metric_name"]: metric for metric in exported["metrics"]}
    metrics["energy_kwh"]["verbose_name"] = "Energy in kWh"
    fresh = {"metric_name": "rows", "expression": "COUNT(*)", "warning_text": None}
    exported["metrics"] = [*reversed(exported["metrics"]), fresh]
    exported["columns"] = []
    added = laid_over(tmp_path, "datasets/druid/panel_report.yaml", exported)
    assert [line[0] for line in added] == ["-", "+", "+"]
    assert added[1] == added[0].replace("Energy (kWh)", "Energy in kWh").replace("- -", "+ -", 1)
    assert added[2] == "+ - {metric_name: rows, expression: COUNT(*)}"


def test_a_dashboard_keeps_its_own_numbers_of_charts(tmp_path):
    name = "dashboards/selfgen_overview.yaml"
    exported = as_exported(name)
    text = yaml.safe_dump(exported)
    for number in sorted(_charts(exported), reverse=True):
        text = text.replace(f"chartId: {number}\n", f"chartId: {number + 40}\n")
    exported = yaml.safe_load(text)
    for native_filter in exported["metadata"]["native_filter_configuration"]:
        native_filter["scope"]["excluded"] = [number + 40 for number in native_filter["scope"]["excluded"]]
        native_filter["chartsInScope"] = [41, 45]
    assert laid_over(tmp_path, name, exported) == []
    exported["metadata"]["refresh_frequency"] = 60
    assert laid_over(tmp_path, name, exported) == ["-   refresh_frequency: 5", "+   refresh_frequency: 60"]
