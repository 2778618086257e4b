"""What a simulation knows of itself: how many messages of which fate it made, and which faults it played."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from selfgen.registry import Kind
from selfgen.simulation.batch import DUPLICATE, LANDED, OUTCOMES, Batch, Times
from selfgen.simulation.fleet import KINDS

FaultKind = Literal[
    "stuck", "dropped", "drifting", "shaded", "meter_reset", "off", "weak", "limited", "scaled", "clock_shift"
]


class Fault(Struct, frozen=True):
    """Something wrong with one element from `start` until before `end`.

    `stuck`: every reading repeats the first of the span. `dropped`: nothing is sent. `drifting`: readings
    lose up to the share `amount`, linearly. `shaded`: readings lose that share in the client's
    afternoon. `meter_reset`: the cumulative meter begins at zero again at `start`.

    `off`: nothing is produced. `weak`: readings lose the share `amount` all the time. `limited`: no power is above
    that share of the rating. `scaled`: readings are `amount` times what they should be. `clock_shift`: the device's
    clock is `amount` hours behind, so that its messages claim to be that much older than they are.
    """

    kind: FaultKind
    topic: Kind
    element_id: str
    start: datetime
    end: datetime
    amount: float = 0.0

    @property
    def span_ms(self) -> tuple[int, int]:
        """Start and end, epoch ms."""
        return int(self.start.timestamp() * 1000), int(self.end.timestamp() * 1000)

    def covers(self, times_ms: Times) -> NDArray[np.bool_]:
        """Return which of these times are inside the span."""
        start_ms, end_ms = self.span_ms
        return (times_ms >= start_ms) & (times_ms < end_ms)


class TopicTruth(Struct):
    """Messages of one topic: `produced` = `landed` + `duplicates` + all of `refused`."""

    produced: int = 0
    landed: int = 0
    duplicates: int = 0
    late: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Truth(Struct):
    """Counts by topic, and the faults; filled while a simulation runs."""

    topics: dict[str, TopicTruth] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def count(self, batch: Batch) -> None:
        """Add a batch that was sent."""
        for code, kind in enumerate(KINDS):
            mine = batch.topic == code
            outcomes = np.bincount(batch.outcome[mine], minlength=len(OUTCOMES)).tolist()
            if not sum(outcomes):
                continue
            topic = self.topics.setdefault(kind, TopicTruth())
            topic.produced += sum(outcomes)
            topic.landed += outcomes[LANDED]
            topic.duplicates += outcomes[DUPLICATE]
            topic.late += int(np.count_nonzero(batch.late[mine]))
            refused = Counter(dict(zip(OUTCOMES[DUPLICATE + 1 :], outcomes[DUPLICATE + 1 :], strict=True)))
            topic.refused = dict(Counter(topic.refused) + refused)

    def as_json(self) -> dict[str, Any]:
        """Return the truth as plain JSON values."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value

    def write(self, path: Path) -> None:
        """Write the truth as one JSON document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Return what `write` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)
