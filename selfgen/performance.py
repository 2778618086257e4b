"""What operators see of a topic's entrance: throughput, refusals, lag, and the delay from event to landed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfgen.messages import SET_ASIDE

#: Where whoever takes a topic's messages in tells this.
PERFORMANCE_TOPIC = "topic_performance"

#: Relative error of a quantile.
_ACCURACY = 0.01
_GROWTH = math.log((1 + _ACCURACY) / (1 - _ACCURACY))
_SHORTEST_S = 0.001
_BUCKETS = 1 + math.ceil(math.log(100 * 365.25 * 86400 / _SHORTEST_S) / _GROWTH)  # up to a hundred years


@dataclass(slots=True)
class DelaySketch:
    """Delays counted in buckets of growing width, so that quantiles have a bounded relative error.

    Sketches merge by addition. (DDSketch: Masson, Rim, Lee, VLDB 2019.)
    """

    counts: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(_BUCKETS, np.int64))
    greatest_s: float = 0.0

    def add(self, delays_s: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Count delays, s; a negative one (a clock ahead) counts as none."""
        if not len(delays_s):
            return
        buckets = np.ceil(np.log(np.maximum(delays_s, _SHORTEST_S) / _SHORTEST_S) / _GROWTH).astype(np.int64)
        self.counts += np.bincount(np.minimum(buckets, _BUCKETS - 1), minlength=_BUCKETS)
        self.greatest_s = max(self.greatest_s, float(delays_s.max()))

    def merge(self, other: DelaySketch) -> None:
        """Add another sketch's delays to these."""
        self.counts += other.counts
        self.greatest_s = max(self.greatest_s, other.greatest_s)

    def quantile(self, share: float) -> float | None:
        """Return the delay that this share of all does not exceed, s; None where there is none."""
        total = int(self.counts.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self.counts), share * total))
        if bucket == 0:
            return min(_SHORTEST_S, self.greatest_s)
        middle = _SHORTEST_S * math.exp(_GROWTH * bucket) * (1 - _ACCURACY)
        return min(middle, self.greatest_s)


@dataclass(slots=True)
class Totals:
    """A partition's counts since it exists, as its progress holds them; `refused` is `rejected` by reason."""

    messages: int = 0
    bytes: int = 0
    rejected: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Totals) -> Totals:
        """Return the totals of both."""
        return Totals(
            self.messages + other.messages,
            self.bytes + other.bytes,
            self.rejected + other.rejected,
            self.duplicates + other.duplicates,
            {reason: self.refused.get(reason, 0) + other.refused.get(reason, 0) for reason in SET_ASIDE},
        )

    @classmethod
    def of(cls, progress: dict[str, Any]) -> Totals:
        """Return the totals of a progress document."""
        refused = progress.get("refused", {})
        rejected = sum(refused.values())
        duplicates = progress.get("duplicates", 0)
        return cls(
            progress.get("landed", 0) + progress.get("replaced", 0) + duplicates + rejected,
            progress.get("bytes", 0),
            rejected,
            duplicates,
            dict(refused),
        )


def row(
    topic: str,
    partition: int,
    consumer: str,
    now: Totals,
    reported: Totals,
    lag: int,
    delays: DelaySketch,
    now_ms: int,
) -> dict[str, Any]:
    """Return one row of `topic_performance`: what happened since the last one."""
    return {
        "timestamp": now_ms,
        "topic_id": topic,
        "partition": partition,
        "consumer": consumer,
        "messages": now.messages - reported.messages,
        "bytes": now.bytes - reported.bytes,
        "rejected": now.rejected - reported.rejected,
        "duplicates": now.duplicates - reported.duplicates,
        "lag": lag,
        "delay_p50": delays.quantile(0.5),
        "delay_p95": delays.quantile(0.95),
        "delay_p99": delays.quantile(0.99),
        "delay_max": delays.greatest_s if delays.counts.any() else None,
        **{f"refused_{reason}": now.refused.get(reason, 0) - reported.refused.get(reason, 0) for reason in SET_ASIDE},
    }
