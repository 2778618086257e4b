from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from couchbase_admin.registry import _ALWAYS, _NULLS, COLUMNS, Registry, _Entry, _positions_valid_at
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
    registry.close()
    assert found["known"].tolist() == [False]
    assert found["stale"].tolist() == [True]
    assert found["client_id"].tolist() == [None]
