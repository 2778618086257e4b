"""What goes wrong between a device and Kafka: messages sent twice, late, or broken; declared in the outcome.

Which message meets which fate depends on the seed, its topic, element and event time alone.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from selfgen.messages import MAX_BYTES, MAX_ID_BYTES, REASONS
from selfgen.registry import ID_FIELD, Kind
from selfgen.simulation.batch import DUPLICATE, OUTCOMES, Batch, Times
from selfgen.simulation.fleet import KINDS
from selfgen.simulation.noise import uniform
from selfgen.simulation.truth import Truth

#: The measured field every message of a kind must have, and a value beyond its limits.
VALUE_FIELD: dict[Kind, str] = {"panel": "power", "light": "irradiance", "wind": "wind_speed"}
_BEYOND = {"panel": 20_000_000, "light": 2500, "wind": 130}

_BAD_TIMES = ("yesterday", "2026-01-01T12:00:00", "2026-13-01T12:00:00Z", "")
_CENTURY_MS = 36_525 * 86_400_000
#: A message that is too large is this rare among the broken ones, because of its size.
_TOO_LARGE_EVERY = 1000


class Disorder(Struct, frozen=True):
    """Shares of all messages, 0 to 1, and delays in ms (from, to)."""

    duplicated: float = 0.01
    late: float = 0.01
    broken: float = 0.005
    duplicate_after_ms: tuple[int, int] = (0, 120_000)
    late_by_ms: tuple[int, int] = (300_000, 1_800_000)


USUAL = Disorder()


class Mixer:
    """Turns readings in order of time into messages as they arrive; remembers only those under way.

    Parameters
    ----------
    disorder
        How much goes wrong.
    seed
        The same seed gives the same fates.
    truth
        Counts what was handed out.
    """

    def __init__(self, disorder: Disorder, seed: int, truth: Truth) -> None:
        self.disorder, self.seed, self.truth = disorder, seed, truth
        self._broken = Counter[Kind]()
        self._under_way = Batch.concat([])
        self._arrivals: Times = np.empty(0, np.int64)

    def mix(self, readings: Batch, until_ms: int | None) -> Batch:
        """Return what arrives before `until_ms` (None: all), of these readings and those under way."""
        disorder = self.disorder
        chance, duplicate_delay, late_delay = fates(readings, self.seed)
        duplicate = chance < disorder.duplicated
        late = ~duplicate & (chance < disorder.duplicated + disorder.late)
        broken = ~duplicate & ~late & (chance < disorder.duplicated + disorder.late + disorder.broken)

        arrivals = readings.event_ms.copy()
        arrivals[late] += _between(disorder.late_by_ms, late_delay[late])
        again = np.flatnonzero(duplicate)
        again_at = readings.event_ms[again] + _between(disorder.duplicate_after_ms, duplicate_delay[again])
        readings = replace(readings, late=late)
        originals = self._break(readings, np.flatnonzero(broken))
        copies = readings.take(again)
        copies.outcome[:] = DUPLICATE

        pending = Batch.concat([self._under_way, originals, copies])
        arriving = np.concatenate([self._arrivals, arrivals, again_at])
        order = np.argsort(arriving, kind="stable")
        cut = len(order) if until_ms is None else int(np.searchsorted(arriving[order], until_ms))
        arrived = pending.take(order[:cut])
        self._under_way, self._arrivals = pending.take(order[cut:]), arriving[order[cut:]]
        self.truth.count(arrived)
        return arrived

    def _break(self, readings: Batch, places: NDArray[np.intp]) -> Batch:
        """Put a broken message in the place of each of these readings; every reason has its turn."""
        if not len(places):
            return readings
        keys, values, outcome = [], [], readings.outcome.copy()
        for place in places.tolist():
            kind = KINDS[readings.topic[place]]
            number = self._broken[kind]
            self._broken[kind] += 1
            reason = tuple(REASONS)[number % len(REASONS)]
            if reason == "too_large" and number >= len(REASONS) and number % _TOO_LARGE_EVERY >= len(REASONS):
                reason = "malformed_json"
            element_id, event_ms = readings.key[place].as_py(), int(readings.event_ms[place])
            key, value = broken_message(kind, element_id, event_ms, reason, number // len(REASONS))
            keys.append(key)
            values.append(value)
            outcome[place] = OUTCOMES.index(reason)
        mask = np.zeros(len(readings), np.bool_)
        mask[places] = True
        return replace(
            readings,
            key=pc.replace_with_mask(readings.key, mask, pa.array(keys, pa.string())),
            value=pc.replace_with_mask(readings.value, mask, pa.array(values, pa.binary())),
            outcome=outcome,
        )


def fates(readings: Batch, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return three independent numbers in [0, 1) for each reading, from its topic, element and event time."""
    # the same hash of the key in every process, over the few distinct keys
    dictionary = readings.key.dictionary_encode()
    hashes = np.array([crc32(key.encode()) for key in dictionary.dictionary.to_pylist()], np.int64)
    element = hashes[dictionary.indices.to_numpy()] if len(readings) else np.empty(0, np.int64)
    chance, first, second = (
        uniform(seed, 71 + n, readings.topic.astype(np.int64), element, readings.event_ms) for n in range(3)
    )
    return chance, first, second


def _between(bounds: tuple[int, int], share: NDArray[np.float64]) -> Times:
    return np.asarray(bounds[0] + share * (bounds[1] - bounds[0]), np.int64)


def broken_message(kind: Kind, element_id: str, event_ms: int, reason: str, variant: int = 0) -> tuple[str, bytes]:
    """Return (key, value) of a message that breaks the contract for exactly this reason.

    `variant` counts through the ways in which it can be broken.
    """
    id_field, value_field = ID_FIELD[kind], VALUE_FIELD[kind]
    ways: tuple[bytes, ...]
    good: dict[str, Any] = {id_field: element_id, "timestamp": event_ms, value_field: 1.5}

    def but(**fields: Any) -> bytes:
        return json.dumps(good | fields, separators=(",", ":")).encode()

    def value(literal: str) -> bytes:
        return but(**{value_field: "?"}).replace(b'"?"', literal.encode())

    def note(octets: bytes) -> bytes:
        return but(note="?").replace(b"?", octets)

    def without(name: str) -> bytes:
        return json.dumps({field: good[field] for field in good if field != name}).encode()

    whole = but()
    key = element_id
    match reason:
        case "malformed_json":
            ways = (whole[:-1], b"", whole + b"}", b"\x00\x01\x02")
        case "not_an_object":
            ways = (b"[1,2,3]", b"null", json.dumps(element_id).encode(), b"42")
        case "missing_field":
            ways = (without(value_field), without("timestamp"), without(id_field))
        case "wrong_type":
            ways = (value('"1.5"'), value("null"), value("[1.5]"), but(**{id_field: 17}))
        case "out_of_range":
            ways = tuple(map(value, ("NaN", str(_BEYOND[kind]), "-Infinity", "-5000", "1e400")))
        case "bad_timestamp":
            ways = tuple(but(timestamp=text) for text in _BAD_TIMES)
        case "future_timestamp":
            ways = (but(timestamp=event_ms + _CENTURY_MS), but(timestamp="2199-01-01T00:00:00Z"))
        case "too_large":
            ways = (note(b"x" * MAX_BYTES),)
        case "invalid_utf8":
            ways = (note(b"\xff\xfe"), note(b"\xc3"))
        case "bad_id":
            key = ("x" * (MAX_ID_BYTES + 1), element_id + "\x07", "", element_id + "\n")[variant % 4]
            ways = (but(**{id_field: key}),)
        case _:
            raise ValueError(f"no such reason: {reason}; there are {', '.join(REASONS)}")
    return key, ways[variant % len(ways)]
