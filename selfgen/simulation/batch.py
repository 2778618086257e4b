"""Messages in bulk: parallel arrays, made and written without a Python object per message.

The line form of files and logs is a JSON array a line::

    ["panel","panel-001",1767225600000,{"panel_id":"panel-001","timestamp":1767225600000,"power":250},"landed"]

topic, key, event time (epoch ms), the message, and what becomes of it: `landed`, `duplicate`, or the reason
it is refused for. A message that will be refused need not be JSON; it is written as a string, in Base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfgen.messages import REASONS
from selfgen.registry import ID_FIELD, Kind
from selfgen.simulation.fleet import KINDS, Fleet
from selfgen.simulation.noise import Floats

Times = NDArray[np.int64]

#: What becomes of a message; the outcome of a `Batch` is an index into this.
OUTCOMES = ("landed", "duplicate", *REASONS)
LANDED, DUPLICATE = 0, 1

#: Decimals sent, by field.
DECIMALS = {"power": 2, "irradiance": 2, "wind_speed": 2, "wind_direction": 1, "temperature": 1, "energy": 1}

_ODD_IN_KEY = r'["\\\x00-\x1f]'


class Message(NamedTuple):
    """One message as sent, its event time (epoch ms), and what becomes of it (one of `OUTCOMES`)."""

    topic: str
    key: bytes
    value: bytes
    event_ms: int
    outcome: str


@dataclass(frozen=True)
class Batch:
    """Messages in the order they are sent, as parallel arrays of one length.

    `topic` indexes `KINDS`, `outcome` indexes `OUTCOMES`; `key` is text, `value` binary; `event_ms` is the
    moment the device measured, also where the message itself claims another one.
    """

    topic: NDArray[np.int8]
    key: pa.Array
    value: pa.Array
    event_ms: Times
    outcome: NDArray[np.int8]
    late: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.topic)

    @classmethod
    def concat(cls, batches: Iterable[Batch]) -> Batch:
        """Return batches one after the other."""
        parts = list(batches)
        return cls(
            topic=np.concatenate([np.empty(0, np.int8), *(part.topic for part in parts)]),
            key=pa.concat_arrays([pa.array([], pa.string()), *(part.key for part in parts)]),
            value=pa.concat_arrays([pa.array([], pa.binary()), *(part.value for part in parts)]),
            event_ms=np.concatenate([np.empty(0, np.int64), *(part.event_ms for part in parts)]),
            outcome=np.concatenate([np.empty(0, np.int8), *(part.outcome for part in parts)]),
            late=np.concatenate([np.empty(0, np.bool_), *(part.late for part in parts)]),
        )

    def take(self, index: NDArray[Any]) -> Batch:
        """Return the messages at these places, in this order."""
        places = pa.array(index)
        return Batch(
            topic=self.topic[index],
            key=self.key.take(places),
            value=self.value.take(places),
            event_ms=self.event_ms[index],
            outcome=self.outcome[index],
            late=self.late[index],
        )

    def messages(self) -> Iterator[Message]:
        """Return the messages one by one."""
        topics = [KINDS[code] for code in self.topic.tolist()]
        outcomes = [OUTCOMES[code] for code in self.outcome.tolist()]
        keys = self.key.cast(pa.binary()).to_pylist()
        return map(Message, topics, keys, self.value.to_pylist(), self.event_ms.tolist(), outcomes)

    def lines(self) -> pa.Array:
        """Return the line form of each message, with its line end."""
        value = self.value
        refused = np.flatnonzero(self.outcome > DUPLICATE)
        if len(refused):
            texts = [b'"%b"' % base64.b64encode(value[place].as_py()) for place in refused.tolist()]
            value = pc.replace_with_mask(value, self.outcome > DUPLICATE, pa.array(texts, pa.binary()))
        key = self.key
        if pc.any(odd := pc.match_substring_regex(key, _ODD_IN_KEY)).as_py():
            texts_of_keys = [json.dumps(text)[1:-1] for text in key.filter(odd).to_pylist()]
            key = pc.replace_with_mask(key, odd, pa.array(texts_of_keys, pa.string()))
        starts = pa.array([f'["{kind}","' for kind in KINDS]).take(pa.array(self.topic))
        ends = pa.array([f',"{name}"]\n' for name in OUTCOMES]).take(pa.array(self.outcome))
        times = pa.array(self.event_ms).cast(pa.string())
        pieces = [starts, key, '",', times, ",", value, ends, ""]
        return pc.binary_join_element_wise(*(as_binary(piece) for piece in pieces))


def as_binary(piece: pa.Array | str) -> pa.Array | pa.Scalar:
    """Return text as bytes: a scalar, or an array without copying it."""
    return pa.scalar(piece.encode()) if isinstance(piece, str) else piece.cast(pa.binary())


def text_of(lines: pa.Array) -> memoryview:
    """Return the bytes of all lines, without copying."""
    if not len(lines):
        return memoryview(b"")
    _, offsets, data = lines.buffers()
    bounds = np.frombuffer(offsets, np.int32)
    return memoryview(data)[bounds[lines.offset] : bounds[lines.offset + len(lines)]]


_line = msgspec.json.Decoder(tuple[str, str, int, msgspec.Raw, str])


def read_lines(path: Path) -> Iterator[Message]:
    """Return the messages of a file in the line form."""
    with path.open("rb") as file:
        for line in file:
            topic, key, event_ms, raw, outcome = _line.decode(line)
            value = bytes(raw)
            if value.startswith(b'"'):
                value = base64.b64decode(value[1:-1])
            yield Message(topic, key.encode(), value, event_ms, outcome)


class Encoder:
    """Makes the messages of one kind of element from matrices of times × elements."""

    def __init__(self, fleet: Fleet, kind: Kind) -> None:
        self.topic = KINDS.index(kind)
        self.keys = pa.array(fleet.ids(kind), pa.string())
        id_field = ID_FIELD[kind]
        self.starts = pa.array(
            [f'{{"{id_field}":{json.dumps(key)},"timestamp":' for key in fleet.ids(kind)], pa.string()
        )
        # every second device speaks RFC 3339 with its local offset, the others epoch milliseconds
        zones = [client.time_zone for client in fleet.owners(kind)]
        self.zones = sorted({zone for number, zone in enumerate(zones) if number % 2})
        self.clock = np.array(
            [1 + self.zones.index(zone) if number % 2 else 0 for number, zone in enumerate(zones)], np.int64
        )

    def encode(self, times_ms: Times, fields: Mapping[str, Floats], keep: NDArray[np.bool_]) -> Batch:
        """Return the messages of all kept (time, element), by time, then by element.

        Parameters
        ----------
        times_ms
            Event times, epoch ms; shape (times,).
        fields
            Values by field of the message; shape (times, elements).
        keep
            Which of them are sent; shape (times, elements).
        """
        row, element = np.nonzero(keep)
        clocks = [pa.array(times_ms).cast(pa.string())]
        clocks += [local_stamps(times_ms, zone) for zone in self.zones]
        stamps = pa.concat_arrays(clocks).take(pa.array(self.clock[element] * len(times_ms) + row))
        pieces = [self.starts.take(pa.array(element)), stamps]
        for name, values in fields.items():
            # adding zero makes minus zero plain
            rounded = pa.array(np.round(values[row, element], DECIMALS[name]) + 0.0)
            pieces += [f',"{name}":', rounded.cast(pa.string())]
        return Batch(
            topic=np.full(len(row), self.topic, np.int8),
            key=self.keys.take(pa.array(element)),
            value=pc.binary_join_element_wise(*pieces, "}", "").cast(pa.binary()),
            event_ms=times_ms[row],
            outcome=np.zeros(len(row), np.int8),
            late=np.zeros(len(row), np.bool_),
        )


def offsets_ms(times_ms: Times, zone: str) -> Times:
    """Return how far the clock of a time zone is ahead of UTC at each time, ms."""
    minutes = times_ms // 60_000
    if len(minutes) and (minutes == minutes[0]).all():  # a live feed's: no clock changes within a minute
        return np.full(len(times_ms), _offset_ms(int(minutes[0]), zone))
    times = pd.DatetimeIndex(times_ms.astype("datetime64[ms]"), tz="UTC")
    wall = times.tz_convert(zone).tz_localize(None).to_numpy()
    return wall.astype("datetime64[ms]").astype(np.int64) - times_ms


@lru_cache(maxsize=1024)
def _offset_ms(minute: int, zone: str) -> int:
    offset = datetime.fromtimestamp(minute * 60, ZoneInfo(zone)).utcoffset() or timedelta()
    return round(offset.total_seconds()) * 1000


def local_stamps(times_ms: Times, zone: str) -> pa.Array:
    """Return RFC 3339 texts of times on the clock of a time zone, in quotes."""
    offsets = offsets_ms(times_ms, zone)
    walls = (times_ms + offsets).astype("datetime64[ms]")
    whole = not (times_ms % 1000).any()
    texts = pa.array(np.datetime_as_string(walls, unit="s" if whole else "ms").tolist(), pa.string())
    distinct, which = np.unique(offsets, return_inverse=True)
    signs = [f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
             for minutes in (distinct // 60_000).tolist()]  # fmt: skip
    return pc.binary_join_element_wise('"', texts, pa.array(signs, pa.string()).take(pa.array(which)), '"', "")
