"""Answers of the registry in columns, so that a batch of look-ups is a few operations on arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_COLUMNS = np.dtype(
    [
        ("read_at", np.float64),
        ("known", np.bool_),
        ("start", np.int64),
        ("end", np.int64),
        ("inside", object),
        ("outside", object),
    ],
    align=True,
)


class Row(NamedTuple):
    """What is answered of an element of at most one period: inside of `[start, end)` (epoch ms), and outside."""

    read_at: float
    known: bool
    start: int
    end: int
    inside: tuple[Any, ...]
    outside: tuple[Any, ...]


class Found(NamedTuple):
    """Of each row of a look-up, its answer, whether the element is known, and when that was read."""

    answers: NDArray[Any]
    known: NDArray[np.bool_]
    read_at: NDArray[np.float64]


class LaidOut:
    """The rows of a kind of elements, `most` of them; the first stands for what is not there."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._places: dict[str, int] = {}
        self._columns = np.zeros(1, _COLUMNS)
        self._columns["read_at"] = -np.inf

    def put(self, rows: Mapping[str, Row]) -> None:
        """Lay rows out, in the place of those of the same elements."""
        with self._lock:
            if len(self._places.keys() | rows.keys()) > self._most:
                self._clear()
            new = [one for one in rows if one not in self._places]
            self._places.update(zip(new, range(len(self._columns), len(self._columns) + len(new)), strict=True))
            self._columns = np.concatenate([self._columns, np.zeros(len(new), _COLUMNS)])
            self._columns[[self._places[one] for one in rows]] = np.array(list(map(tuple, rows.values())), _COLUMNS)

    def __contains__(self, element_id: str) -> bool:
        return element_id in self._places

    def find(self, element_ids: Sequence[str] | NDArray[Any], times: NDArray[np.int64]) -> Found:
        """Return the answers at event times; read infinitely long ago where nothing is laid out."""
        with self._lock:
            places = np.fromiter(map(self._places.get, element_ids, repeat(0)), np.intp, len(element_ids))
            columns = self._columns
        inside = (columns["start"][places] <= times) & (times < columns["end"][places])
        return Found(
            np.where(inside, columns["inside"][places], columns["outside"][places]),
            columns["known"][places],
            columns["read_at"][places],
        )
