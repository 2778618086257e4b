"""Operators' alarms at a topic's entrance: raised once when a condition held, cleared once by an easier threshold.

>>> state, events = judge({}, Numbers(lag=0, messages=100, rejected=50), now_ms=0, bounds=Bounds(hold_s=0))
>>> [(event.code, event.state) for event in events]
[('refused_share', 'raised')]
>>> [(event.code, event.state) for event in judge(state, Numbers(lag=0, messages=100), 10_000, Bounds())[1]]
[('refused_share', 'cleared')]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

#: By code: when its condition began (epoch ms), whether it was raised, and the figure then. Under `COUNTED`: messages
#: and refusals that are too few yet to judge their share.
State = dict[str, dict[str, Any]]
COUNTED = "counted"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What raises an alarm after `hold_s` seconds; half of it (a falling lag, a message) clears it."""

    lag: int = 10_000
    """Messages that may wait; above, a growing lag raises."""
    delay_s: float = 60.0
    """Of the 95th percentile from event to durable."""
    refused_share: float = 0.05
    """Of the messages of an interval, or of as many as there are at least `least_messages` in."""
    least_messages: int = 20
    silent_s: float = 900.0
    """Without any message in the topic."""
    hold_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured since the last report; None where it was not."""

    lag: int
    messages: int = 0
    rejected: int = 0
    delay_p95_s: float | None = None
    silent_s: float | None = None


class Event(NamedTuple):
    """An alarm raised or cleared; `since_ms` tells one incident from another."""

    code: str
    state: Literal["raised", "cleared"]
    since_ms: int
    text: str


class _Condition(NamedTuple):
    code: str
    figure: float
    holds: bool
    over: bool
    text: str


def judge(state: State, numbers: Numbers, now_ms: int, bounds: Bounds) -> tuple[State, list[Event]]:
    """Return the state after these numbers, and what is raised or cleared by them."""
    events: list[Event] = []
    following: State = dict(state)  # what the numbers say nothing about stays as it was
    counted = following.pop(COUNTED, {"messages": 0, "rejected": 0})
    numbers = replace(
        numbers, messages=numbers.messages + counted["messages"], rejected=numbers.rejected + counted["rejected"]
    )
    if 0 < numbers.messages < bounds.least_messages:
        following[COUNTED] = {"messages": numbers.messages, "rejected": numbers.rejected}
    for condition in _conditions(state, numbers, bounds):
        code, before = condition.code, state.get(condition.code)
        if before is not None and before["raised"]:
            if condition.over:
                del following[code]
                events.append(Event(code, "cleared", before["since_ms"], condition.text))
            else:
                following[code] = {**before, "figure": condition.figure}
        elif condition.holds:
            since_ms = before["since_ms"] if before else now_ms
            raised = now_ms - since_ms >= bounds.hold_s * 1000
            following[code] = {"since_ms": since_ms, "raised": raised, "figure": condition.figure}
            if raised:
                events.append(Event(code, "raised", since_ms, condition.text))
        else:
            following.pop(code, None)
    return following, events


def _conditions(state: State, numbers: Numbers, bounds: Bounds) -> Iterator[_Condition]:
    """Return each condition that these numbers say something about."""
    lag, before = numbers.lag, state.get("lag_growing", {}).get("figure", 0)
    yield _Condition(
        "lag_growing",
        lag,
        holds=lag > max(bounds.lag, before),
        over=lag <= bounds.lag / 2,
        text=f"{lag} messages wait",
    )
    if numbers.delay_p95_s is not None:
        yield _Condition(
            "delay",
            numbers.delay_p95_s,
            holds=numbers.delay_p95_s > bounds.delay_s,
            over=numbers.delay_p95_s <= bounds.delay_s / 2,
            text=f"5 % of the readings take more than {numbers.delay_p95_s:.1f} s from event to durable",
        )
    if numbers.messages >= bounds.least_messages:
        share = numbers.rejected / numbers.messages
        yield _Condition(
            "refused_share",
            share,
            holds=share > bounds.refused_share,
            over=share <= bounds.refused_share / 2,
            text=f"{share:.1%} of the messages are refused; see 'selfgen rejected list'",
        )
    if numbers.silent_s is not None:
        yield _Condition(
            "silent",
            numbers.silent_s,
            holds=numbers.silent_s > bounds.silent_s,
            over=numbers.silent_s <= bounds.silent_s,
            text=f"no message for {numbers.silent_s:.0f} s",
        )
