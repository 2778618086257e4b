from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from couchbase_admin.registry import _ALWAYS, _NULLS, COLUMNS, Registry, _Entry, _rows_valid_at
from selfgen.columns import ENRICHMENT
from selfgen.settings import Settings

borders = st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted)


def entry(ends: list[int], name: str, *, open_ended: bool) -> _Entry:
    """Return an element whose periods lie between every first and second of the borders."""
    starts, stops = ends[::2], ends[1::2]
    if len(stops) < len(starts):
        stops.append(_ALWAYS if open_ended else starts[-1] + 1)
    answers = tuple((f"{name}{number}",) for number in range(len(starts)))
    return _Entry(0.0, True, (*starts, _ALWAYS), (*stops, _ALWAYS), (*answers, (f"{name}-",)), {}, ())


@given(
    elements=st.lists(st.tuples(borders, st.booleans()), min_size=1, max_size=5),
    queries=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 31)), max_size=60),
)
def test_the_valid_answer_is_found_as_by_hand(elements, queries):
    entries = [entry(ends, f"e{n}/", open_ended=is_open) for n, (ends, is_open) in enumerate(elements)]
    queries = [(code % len(entries), time) for code, time in queries]
    answers = [answer[0] for one in entries for answer in one.answers]

    def by_hand(code: int, time: int) -> str:
        one = entries[code]
        for start, end, answer in zip(one.starts[:-1], one.ends[:-1], one.answers[:-1], strict=True):
            if start <= time < end:
                return answer[0]
        return one.answers[-1][0]

    codes = np.array([code for code, _ in queries], dtype=np.intp)
    times = np.array([time for _, time in queries], dtype=np.int64)
    rows = _rows_valid_at(entries, codes, times)
    assert [answers[row] for row in rows] == [by_hand(code, time) for code, time in queries]


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
    registry.close()
    assert found["known"].tolist() == [False]
    assert found["stale"].tolist() == [True]
    assert found["client_id"].tolist() == [None]
