from __future__ import annotations

import json
import pickle
from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from couchbase_admin.laid_out import LaidOut, Row
from couchbase_admin.registry import _ALWAYS, _NULLS, COLUMNS, Registry, _Entry, _positions_valid_at
from selfgen.clients.couchbase import Stored
from selfgen.columns import ENRICHMENT
from selfgen.settings import Settings

borders = st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted)


def entry(borders: list[int], *, open_ended: bool) -> _Entry:
    """Return an element whose periods lie between every first and second of the borders."""
    if len(borders) % 2:
        borders = [*borders, _ALWAYS if open_ended else borders[-1] + 1]
    return _Entry(0.0, (*borders, _ALWAYS, _ALWAYS))


@given(
    elements=st.lists(st.tuples(borders, st.booleans()), min_size=1, max_size=5),
    queries=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 31)), max_size=60),
)
def test_the_valid_period_is_found_as_by_hand(elements, queries):
    entries = [entry(ends, open_ended=is_open) for ends, is_open in elements]
    queries = [(code % len(entries), time) for code, time in queries]

    def by_hand(code: int, time: int) -> int:
        own = entries[code].borders
        for position in range(len(own) // 2):
            if own[2 * position] <= time < own[2 * position + 1]:
                return position
        return len(own) // 2 - 1

    codes = np.array([code for code, _ in queries], dtype=np.intp)
    times = np.array([time for _, time in queries], dtype=np.int64)
    assert _positions_valid_at(entries, codes, times).tolist() == [by_hand(code, time) for code, time in queries]


def test_what_is_laid_out_answers_by_event_time_and_tells_when_it_was_read():
    laid_out = LaidOut(3)
    laid_out.put({"P1": Row(10.0, True, 100, 200, ("in",), ("out",)), "P2": Row(9.0, False, 0, 0, ("",), ("none",))})
    ids, times = ["P1", "P9", "P1", "P2", "P1"], np.array([100, 100, 200, 100, 99])

    found = laid_out.find(ids, times)
    assert found.read_at.tolist() == [10.0, -np.inf, 10.0, 9.0, 10.0]
    there = found.read_at > 0
    assert found.answers[there].tolist() == [("in",), ("out",), ("none",), ("out",)]
    assert found.known[there].tolist() == [True, True, False, True]
    assert [one in laid_out for one in ("P1", "P9", "P2")] == [True, False, True]

    laid_out.put({"P1": Row(11.0, True, 0, 300, ("anew",), ("out",))})
    found = laid_out.find(["P1"], np.array([299]))
    assert (found.answers.tolist(), found.read_at.tolist()) == ([("anew",)], [11.0])


def test_no_more_is_laid_out_than_there_is_room_for():
    laid_out = LaidOut(2)
    for one in ("P1", "P2", "P3"):
        laid_out.put({one: Row(1.0, True, 0, 1, (one,), ())})
    found = laid_out.find(["P1", "P2", "P3"], np.zeros(3, np.int64))
    assert found.read_at.tolist() == [-np.inf, -np.inf, 1.0]
    assert found.answers[2] == ("P3",)


def test_an_answer_has_the_enrichment_in_its_order():
    assert COLUMNS[: len(ENRICHMENT)] == tuple(column.name for column in ENRICHMENT)
    assert COLUMNS[len(ENRICHMENT) :] == ("power_cap", "tilt", "azimuth")
    assert len(_NULLS) == len(COLUMNS)


def test_nothing_looked_up_is_an_empty_answer_and_needs_no_server():
    registry = pickle.loads(pickle.dumps(Registry(Settings(couchbase_url="couchbase://127.0.0.1:9"))))  # noqa: S301
    found = registry.lookup("panel", [], [])
    assert len(found) == 0
    assert list(found.columns) == [*COLUMNS, "known", "stale"]
    assert registry.history("panel", []).empty


def test_where_nothing_was_ever_read_it_is_not_known_whether_an_element_is():
    registry = Registry(Settings(couchbase_url="couchbase://127.0.0.1:9", couchbase_timeout_s=0.3))
    found = registry.lookup("wind", ["W1"], [0])
    assert registry.variable_data("wind", ["W1", "W1"], [0, 1]) == [None, None]
    nothing = json.dumps({column.name: None for column in ENRICHMENT}, separators=(",", ":"))[1:-1]
    assert registry.texts("wind", ["W1", "W1"], [0, 1]) == [nothing, nothing]
    registry.close()
    assert found["known"].tolist() == [False]
    assert found["stale"].tolist() == [True]
    assert found["client_id"].tolist() == [None]


class Written:
    """Documents as somebody wrote them."""

    def __init__(self, **contents: bytes) -> None:
        self._contents = contents

    def get_many(self, keys):
        return {key: Stored(self._contents[key], 1) for key in keys if key in self._contents}


def relations(element_id: str, client_id: str) -> bytes:
    period = f'{{"client_id":"{client_id}","init_wind_date":"2020-01-01T00:00:00Z"}}'
    return f'{{"kind":"wind","wind_id":"{element_id}","periods":[{period}]}}'.encode()


def test_a_malformed_document_is_told_once_and_keeps_no_other_from_being_read():
    # a clock by which everything is too old at once, and is read again
    registry = Registry(Settings(couchbase_url="couchbase://127.0.0.1:9"), clock=count(0, 100).__next__)
    registry._documents = Written(
        **{
            "sensor_wind::good": b'{"model":"M"}',
            "clients_rel::wind::good": relations("good", "C1"),
            "client::C1": b'{"name":"Ana"}',
            "sensor_wind::bad element": b'{"model":"M","variable_data":null}',
            "clients_rel::wind::bad element": relations("bad element", "C1"),
            "sensor_wind::bad relations": b'{"model":"M"}',
            "clients_rel::wind::bad relations": b'{"periods":"none"',
            "sensor_wind::bad client": b'{"model":"M"}',
            "clients_rel::wind::bad client": relations("bad client", "C2"),
            "client::C2": b'{"name":"\xff"}',
            "sensor_wind::bad replaced": b'{"model":"M"}',
            "clients_rel::wind::bad replaced": b'{"kind":"wind","wind_id":"bad replaced","replaces":"bad relations"}',
        }
    )
    ids = ["good", "bad element", "bad relations", "bad client", "bad replaced"]
    with capture_logs() as logs:
        for _ in range(2):
            found = registry.lookup("wind", ids, [1_700_000_000_000] * 5, ["client_id", "name", "model"])
            history = registry.history("wind", ids)
            data = registry.variable_data("wind", ids, [0] * 5)
    registry.close()
    assert found.to_numpy().tolist() == [
        ["C1", "Ana", "M", True, False],
        ["C1", "Ana", "", True, False],
        [None, None, "M", True, False],
        ["C2", None, "M", True, False],
        [None, None, "M", True, False],
    ]
    assert history["element_id"].tolist() == ["good", "bad element", "bad client"]
    assert data == [{}] * 5
    assert sorted(entry["key"] for entry in logs) == [
        "client::C2",
        "clients_rel::wind::bad relations",
        "sensor_wind::bad element",
    ]
