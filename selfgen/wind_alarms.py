"""Alarms of wind sensors, window by window: each definition a small state machine, raised once and cleared once.

A definition is a function of its state, a window and its thresholds; it returns the state after it, and what became of
an incident, if anything did. `follow` runs all of them for one sensor, `silence` the one that no window can tell.
States are frozen structs, fit for JSON. Times are epoch ms, speeds m/s. Everything but silence follows from the
windows alone, so a restart, or a window that comes again, changes nothing.

>>> sensor, rows = follow(None, {"timestamp": 0, "wind_speed": 3.0, "wind_gust": 4.0}, WindThresholds())
>>> rows
[]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from statistics import median
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from selfgen.columns import names
from selfgen.thresholds import MOST_NEIGHBOURS, HighWind, ImplausibleWind, SilentWind, StuckWind, WindThresholds

Severity = Literal["info", "minor", "major", "critical"]
Window = Mapping[str, Any]

#: Least wind speed of each number of the Beaufort scale from 1, m/s (World Meteorological Organization).
BEAUFORT = (0.3, 1.6, 3.4, 5.5, 8.0, 10.8, 13.9, 17.2, 20.8, 24.5, 28.5, 32.7)

#: Windows of one second, from two partitions, come within so many ms of each other.
SKEW_MS = 10_000
#: The usual interval is the median of so many, and known after `KNOWN_GAPS`.
GAPS = 9
KNOWN_GAPS = 3

#: A sensor is looked at no more seldom than this: it may be called silent earlier than before, or have an open
#: incident and be nobody's any more.
SELDOM_S = 600.0
#: What is kept of a sensor without an open incident is dropped at the first look after so long a silence, a week.
FORGOTTEN_S = 7 * 86_400.0


class Event(NamedTuple):
    """What became of an incident: it is a row of `wind_alarm`."""

    state: Literal["raised", "cleared"]
    at: int
    started: int
    wind_speed: float
    severity: Severity
    text: str


# -- high wind ---------------------------------------------------------------------------------------


class Gale(Struct, frozen=True):
    """The last windows' times and gusts; the open incident's start and greatest gust; since when it is calm."""

    recent: tuple[tuple[int, float], ...] = ()
    started: int | None = None
    greatest: float = 0.0
    calm_since: int | None = None
    calm_windows: int = 0


def beaufort(speed: float) -> int:
    """Return the Beaufort number of a wind speed in m/s."""
    return sum(speed >= least for least in BEAUFORT)


def gale_severity(speed: float) -> Severity:
    """Return how severe a gust of so many m/s is: minor to Beaufort 8, major to 10, critical above."""
    force = beaufort(speed)
    return "critical" if force >= 11 else "major" if force >= 9 else "minor"


def high_wind(
    state: Gale, window: Window, thresholds: HighWind, usual_ms: float | None = None
) -> tuple[Gale, Event | None]:
    """Follow gusts; an event's `wind_speed` is the greatest gust of the incident so far.

    Parameters
    ----------
    usual_ms : float, optional
        The sensor's usual interval, where it is known: one that tells its wind each minute has gales, too.
    """
    at, gust = window["timestamp"], window["wind_gust"]
    within_ms = max(thresholds.within_s * 1000, thresholds.of * (usual_ms or 0.0))
    recent = [(time, speed) for time, speed in state.recent if time > at - within_ms]
    recent = [*recent, (at, gust)][-thresholds.of :]
    calm = gust < thresholds.gust * thresholds.clear
    state = replace(
        state,
        recent=tuple(recent),
        greatest=max(state.greatest, gust) if state.started is not None else 0.0,
        calm_since=(at if state.calm_since is None else state.calm_since) if calm else None,
        calm_windows=state.calm_windows + 1 if calm else 0,
    )
    if state.started is None:
        return _raise_gale(state, at, thresholds)
    return _clear_gale(state, at, state.started, thresholds)


def _raise_gale(state: Gale, at: int, thresholds: HighWind) -> tuple[Gale, Event | None]:
    strong = [(time, gust) for time, gust in state.recent if gust >= thresholds.gust]
    if len(strong) < thresholds.windows:
        return state, None
    started, greatest = strong[0][0], max(gust for _, gust in strong)
    text = (
        f"Gusts up to {greatest:.1f} m/s (Beaufort {beaufort(greatest)}): {len(strong)} of "
        f"{len(state.recent)} windows at {thresholds.gust:.1f} m/s or more"
    )
    event = Event("raised", at, started, greatest, gale_severity(greatest), text)
    return replace(state, started=started, greatest=greatest), event


def _clear_gale(state: Gale, at: int, started: int, thresholds: HighWind) -> tuple[Gale, Event | None]:
    since, greatest = state.calm_since, state.greatest
    if since is None or at - since < thresholds.clear_s * 1000 or state.calm_windows < thresholds.of:
        return state, None
    text = (
        f"Under {thresholds.gust * thresholds.clear:.1f} m/s for {_span(at - since)}; gusts up to "
        f"{greatest:.1f} m/s (Beaufort {beaufort(greatest)}) in {_span(since - started)}"
    )
    event = Event("cleared", at, started, greatest, gale_severity(greatest), text)
    return replace(state, started=None, greatest=0.0, recent=()), event


# -- implausible -------------------------------------------------------------------------------------


class Jumps(Struct, frozen=True):
    """The last window; times of recent jumps; the open incident's start and greatest jump; since when it is steady."""

    last: tuple[int, float] | None = None
    recent: tuple[int, ...] = ()
    started: int | None = None
    greatest: float = 0.0
    steady_since: int | None = None


def implausible(state: Jumps, window: Window, thresholds: ImplausibleWind) -> tuple[Jumps, Event | None]:
    """Follow changes between neighbouring windows; an event's `wind_speed` is its window's own."""
    at, speed = window["timestamp"], window["wind_speed"]
    last_at, last_speed = state.last or (at, speed)
    apart = at - last_at > thresholds.apart_s * 1000
    change = abs(speed - last_speed)
    restless = change >= thresholds.jump * thresholds.clear
    change = 0.0 if apart else change
    jumped = change > thresholds.jump
    recent = [time for time in state.recent if time > at - thresholds.within_s * 1000]
    recent = [*recent, *[at] * jumped][-thresholds.jumps :]
    since = at if restless or state.steady_since is None else state.steady_since
    started = state.started
    state = replace(
        state, last=(at, speed), recent=tuple(recent), greatest=max(state.greatest, change), steady_since=since
    )
    if started is None:
        if not recent:
            state = replace(state, greatest=0.0)
        if not jumped or len(recent) < thresholds.jumps:
            return state, None
        text = (
            f"From {last_speed:.1f} to {speed:.1f} m/s in {_span(at - last_at)}: more than {thresholds.jump:.1f} m/s, "
            f"{len(recent)} times in {thresholds.within_s:.0f} s"
        )
        return replace(state, started=recent[0]), Event("raised", at, recent[0], speed, "minor", text)
    if at - since < thresholds.clear_s * 1000:
        return state, None
    text = (
        f"No change of {thresholds.jump * thresholds.clear:.1f} m/s or more for {_span(at - since)}; "
        f"jumps of up to {state.greatest:.1f} m/s in {_span(since - started)}"
    )
    cleared = replace(state, started=None, greatest=0.0, recent=())
    return cleared, Event("cleared", at, started, speed, "minor", text)


# -- stuck -------------------------------------------------------------------------------------------


class Frozen(Struct, frozen=True):
    """The value held, since when and for how many windows; the open incident's start and value; windows that moved."""

    value: float | None = None
    since: int = 0
    windows: int = 0
    started: int | None = None
    held: float = 0.0
    moving: int = 0


def stuck(
    state: Frozen, window: Window, thresholds: StuckWind, neighbours: Sequence[int] = (), *, after_silence: bool = False
) -> tuple[Frozen, Event | None]:
    """Follow how long the value is the same; an event's `wind_speed` is the value that was held.

    Parameters
    ----------
    neighbours : sequence of int
        When each of the other sensors of the area moved last, those that moved last first.
    after_silence : bool
        It was silent for too long before this window: nobody knows what it would have measured.
    """
    at, speed, started = window["timestamp"], window["wind_speed"], state.started
    same = state.value is not None and abs(speed - state.value) <= thresholds.tolerance
    if same and not after_silence:
        state = replace(state, windows=state.windows + 1, moving=0)
    else:
        state = replace(state, value=speed, since=at, windows=1, moving=0 if same else state.moving + 1)
    if started is None:
        moved = sum(state.since < time <= at + SKEW_MS for time in neighbours)
        long = at - state.since >= thresholds.span_s * 1000 and state.windows >= thresholds.windows
        if not long or moved < thresholds.neighbours:
            return state, None
        text = (
            f"{speed:.2f} m/s for {_span(at - state.since)}, {state.windows} windows in a row, while {moved} other "
            f"{'sensor' if moved == 1 else 'sensors'} of the area moved by {thresholds.moved:.1f} m/s or more"
        )
        raised = replace(state, started=state.since, held=speed)
        return raised, Event("raised", at, state.since, speed, "major", text)
    if state.moving < thresholds.clear:
        return state, None
    text = f"It moves again, {thresholds.clear} windows in a row, after {_span(at - started)} at {state.held:.2f} m/s"
    return replace(state, started=None), Event("cleared", at, started, state.held, "major", text)


class Mover(NamedTuple):
    """A sensor of an area, and when it moved last."""

    at: int
    wind_id: str


def follow_area(
    anchor: float | None, movers: Sequence[Mover], window: Window, thresholds: StuckWind
) -> tuple[float, list[Mover], list[int]]:
    """Take one more window of an area.

    Parameters
    ----------
    anchor : float or None
        The speed from which this sensor has to depart to have moved; None at its first window.
    movers : sequence of Mover
        The sensors of the area that moved last, as returned for the window before.

    Returns
    -------
    anchor : float
    movers : list of Mover
        Each sensor once, the last first; one more than can be asked for, because one of them is the asker.
    neighbours : list of int
        When the others moved, for `stuck`.
    """
    at, wind_id, speed = window["timestamp"], window["wind_id"], window["wind_speed"]
    others = [Mover(*mover) for mover in movers if mover[1] != wind_id]
    mine = [Mover(*mover) for mover in movers if mover[1] == wind_id]
    if anchor is None:
        anchor = speed
    elif abs(speed - anchor) >= thresholds.moved:
        anchor, mine = speed, [Mover(at, wind_id)]
    return anchor, sorted([*mine, *others], reverse=True)[: MOST_NEIGHBOURS + 1], [mover.at for mover in others]


# -- no data -----------------------------------------------------------------------------------------


class Silence(Struct, frozen=True):
    """The last window and the intervals before it; how far the others were when in doubt; the open incident."""

    last: int | None = None
    gaps: tuple[int, ...] = ()
    doubted: int | None = None
    started: int | None = None
    raised: int = 0
    back: int = 0


def usual_interval(state: Silence) -> float | None:
    """Return the time from one window of a sensor to the next, ms; None where it is not known yet."""
    return None if len(state.gaps) < KNOWN_GAPS else median(state.gaps)


def longest_silence(state: Silence, thresholds: SilentWind) -> float | None:
    """Return how long a sensor may be silent, ms; None where its usual interval is not known yet."""
    usual = usual_interval(state)
    return None if usual is None else max(thresholds.intervals * usual, thresholds.least_s * 1000)


def heard(state: Silence, window: Window, thresholds: SilentWind) -> tuple[Silence, Event | None]:
    """Take a window: it ends a doubt, and a few in the usual rhythm end an incident."""
    at, speed = window["timestamp"], window["wind_speed"]
    longest = longest_silence(state, thresholds)
    gap = None if state.last is None else at - state.last
    in_rhythm = gap is not None and longest is not None and gap <= longest
    gaps = state.gaps if gap is None else (*state.gaps, gap)[-GAPS:]
    back = 0 if state.started is None else state.back + 1 if in_rhythm else 1
    state, started = replace(state, last=at, gaps=gaps, doubted=None, back=back), state.started
    if started is None or back < thresholds.clear:
        return state, None
    text = f"Data again, {back} windows in the usual rhythm, after {_span(at - started)} with nothing or little"
    cleared = Event("cleared", max(at, state.raised), started, speed, "major", text)
    return replace(state, started=None, back=0), cleared


def unheard(state: Silence, others: int, thresholds: SilentWind, speed: float = 0.0) -> tuple[Silence, Event | None]:
    """Judge a silence by how far the others are; twice, as a window may be on its way.

    Parameters
    ----------
    others : int
        Time of the newest window of those that would be late as well if the pipeline were, see `Progress`; or how far
        this one would be, see `as_far_as`.
    speed : float
        Of the last window, for the event.
    """
    longest = longest_silence(state, thresholds)
    if state.started is not None or state.last is None or longest is None:
        return state, None
    if others < state.last + longest:
        return replace(state, doubted=None), None
    if state.doubted is None or others <= state.doubted:
        return replace(state, doubted=others), None
    # when it became too long, however late that was found out
    at = round(state.last + longest)
    text = (
        f"Nothing for {_span(longest)}, usual is a window every {median(state.gaps) / 1000:.0f} s; "
        "it is not the pipeline that is behind"
    )
    raised = replace(state, doubted=None, started=state.last, raised=at, back=0)
    return raised, Event("raised", at, state.last, speed, "major", text)


class Progress:
    """How far the windows of the other sensors are: what tells a silent sensor from a pipeline that is behind.

    Sensors of one partition are late together. A sensor that is alone in its partition is compared with all others.
    It is kept in memory: after a restart it is told again by the windows that come.
    """

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self._sensors: dict[int, set[str]] = {}

    def note(self, partition: int, wind_id: str, at: int | None = None) -> None:
        """Note a sensor of a partition, and the time of its window, if it had one."""
        self._sensors.setdefault(partition, set()).add(wind_id)
        if at is not None:
            self._newest[partition] = max(self._newest.get(partition, at), at)

    def of(self, kept: Kept) -> int | None:
        """Return the time of the newest window that a sensor is compared with, and note in it where it is not alone.

        Once it was not, it is not taken to be: after a restart the others of its partition are not known yet.
        """
        kept.alone = kept.alone and len(self._sensors.get(kept.partition, ())) <= 1
        return max(self._newest.values(), default=None) if kept.alone else self._newest.get(kept.partition)


class Looks:
    """When sensors are to be looked at, the next one first.

    It is kept in memory: after a restart it is made of what is kept of each sensor.
    """

    def __init__(self, looks: Iterable[tuple[str, int]] = ()) -> None:
        self._looks = [(at, wind_id) for wind_id, at in looks]
        heapify(self._looks)
        self.woken_at: int | None = None
        """When a timer fires for them, once one is set; by the job's clock, as all of them."""

    def add(self, wind_id: str, at: int) -> None:
        """Have a sensor looked at, also where it is to be looked at another time as well."""
        heappush(self._looks, (at, wind_id))

    @property
    def next(self) -> int | None:
        """When the next sensor is to be looked at; None where there is none."""
        return self._looks[0][0] if self._looks else None

    def due(self, now: int) -> list[tuple[str, int]]:
        """Return the sensors that are to be looked at by now, and when they were to be; they are not any more."""
        found = []
        while self._looks and self._looks[0][0] <= now:
            at, wind_id = heappop(self._looks)
            found.append((wind_id, at))
        return found


# -- a sensor ----------------------------------------------------------------------------------------


class Sensor(Struct, frozen=True):
    """All that is kept of one sensor between windows."""

    last: int
    speed: float
    place: dict[str, Any]  # the columns of `wind_alarm` that a window brings
    high_wind: Gale = Gale()
    implausible: Jumps = Jumps()
    stuck: Frozen = Frozen()
    no_data: Silence = Silence()


class Kept(Struct):
    """What a job keeps of one sensor: also where it comes from, its own thresholds, and when it is looked at."""

    sensor: Sensor | None = None
    partition: int = 0
    alone: bool = True  # in its partition, as far as is known
    own: str | None = None  # JSON text, as `WindThresholds.read` takes it
    heard_at: int | None = None  # when its last window came, by the clock of the job
    look_at: int | None = None  # the next time, by that clock


_BROUGHT = ("wind_id", *(name for name in names("wind_report") if name in names("wind_alarm") and name != "wind_speed"))


def follow(
    sensor: Sensor | None, window: Window, thresholds: WindThresholds, neighbours: Sequence[int] = ()
) -> tuple[Sensor, list[dict[str, Any]]]:
    """Take one more window of a sensor; return what is kept of it, and the rows of `wind_alarm` it gives rise to.

    Parameters
    ----------
    sensor : Sensor or None
        As returned for the window before; None at the first.
    window : mapping
        A row of `wind_report` with its `timestamp`. One that is not later than the last is passed over, so a window
        that comes again changes nothing. The first one of another owner ends what is open, and begins from nothing.
    neighbours
        See `stuck`.

    Returns
    -------
    sensor : Sensor
    rows : list of dict
        The columns of `wind_alarm` and `timestamp`: the start of the window that raised or cleared.
    """
    at = window["timestamp"]
    if sensor is None:
        sensor = Sensor(at - 1, 0.0, {})
    if at <= sensor.last:
        return sensor, []
    ended: list[dict[str, Any]] = []
    if _changes_hands(sensor, window):
        sensor, ended = _end_all(sensor, at, "The sensor is somebody else's now")
    longest = longest_silence(sensor.no_data, thresholds.no_data)
    after_silence = longest is not None and at - sensor.last > longest
    gale, gale_event = high_wind(sensor.high_wind, window, thresholds.high_wind, usual_interval(sensor.no_data))
    jumps, jump_event = implausible(sensor.implausible, window, thresholds.implausible)
    frozen, frozen_event = stuck(sensor.stuck, window, thresholds.stuck, neighbours, after_silence=after_silence)
    silent, silent_event = heard(sensor.no_data, window, thresholds.no_data)
    place = {name: window.get(name) for name in _BROUGHT}
    if place["client_id"] is None and has_incident(sensor):
        place = sensor.place  # whose it is may only be unknown for a while
    sensor = Sensor(at, window["wind_speed"], place, gale, jumps, frozen, silent)
    events = {"high_wind": gale_event, "implausible": jump_event, "stuck": frozen_event, "no_data": silent_event}
    return sensor, [*ended, *(_row(sensor, code, event) for code, event in events.items() if event)]


def silence(sensor: Sensor, others: int | None, thresholds: WindThresholds) -> tuple[Sensor, list[dict[str, Any]]]:
    """Judge a sensor that may be silent; return as `follow` does. `others` as `Progress.of` says."""
    if others is None:
        return sensor, []
    state, event = unheard(sensor.no_data, others, thresholds.no_data, sensor.speed)
    sensor = replace(sensor, no_data=state)
    return sensor, [_row(sensor, "no_data", event)] if event else []


def give_up(sensor: Sensor, at: int) -> tuple[Sensor, list[dict[str, Any]]]:
    """Clear what is open of a silent sensor that nobody has any more; return as `follow` does.

    Its rhythm is no longer known either, so that only windows have it watched again.
    """
    return _end_all(sensor, at, "Nobody has the sensor any more, and it is silent")


def _changes_hands(sensor: Sensor, window: Window) -> bool:
    before, now = sensor.place.get("client_id"), window.get("client_id")
    return before is not None and now is not None and now != before


def _end_all(sensor: Sensor, at: int, why: str) -> tuple[Sensor, list[dict[str, Any]]]:
    """Clear what is open, for the owner it was told to; return the sensor as if it began, and the rows."""
    gale, frozen = sensor.high_wind, sensor.stuck
    incidents: list[tuple[str, int | None, float, Severity]] = [
        ("high_wind", gale.started, gale.greatest, gale_severity(gale.greatest)),
        ("implausible", sensor.implausible.started, sensor.speed, "minor"),
        ("stuck", frozen.started, frozen.held, "major"),
        ("no_data", sensor.no_data.started, sensor.speed, "major"),
    ]
    at = max(at, sensor.no_data.raised)

    def cleared(started: int, speed: float, severity: Severity) -> Event:
        return Event("cleared", at, started, speed, severity, f"{why}; it was open for {_span(at - started)}")

    rows = [
        _row(sensor, code, cleared(started, speed, severity))
        for code, started, speed, severity in incidents
        if started is not None
    ]
    return Sensor(sensor.last, sensor.speed, sensor.place), rows


def is_abandoned(sensor: Sensor, silent_ms: int, thresholds: WindThresholds) -> bool:
    """Return whether an incident is open that no window may ever clear: the sensor is silent, by the job's clock."""
    longest = longest_silence(sensor.no_data, thresholds.no_data)
    return has_incident(sensor) and silent_ms >= (SELDOM_S * 1000 if longest is None else longest)


def is_overdue(kept: Kept, others: int | None, now: int, thresholds: WindThresholds) -> bool:
    """Return whether a sensor is silent for too long by the job's clock, and the others are no further."""
    longest = None if kept.sensor is None else longest_silence(kept.sensor.no_data, thresholds.no_data)
    if kept.sensor is None or kept.heard_at is None or longest is None or kept.sensor.no_data.started is not None:
        return False
    return now - kept.heard_at >= longest and (others is None or others < kept.sensor.last + longest)


def as_far_as(kept: Kept, passed: int | None) -> int | None:
    """Return how far a sensor's windows would be had it gone on, since the pipeline has passed on all that was sent.

    Parameters
    ----------
    passed : int or None
        By the job's clock, the moment up to which all that was sent has come through.
    """
    if kept.sensor is None or kept.heard_at is None or passed is None or passed <= kept.heard_at:
        return None
    return kept.sensor.last + passed - kept.heard_at


def is_forgotten(sensor: Sensor, silent_ms: int) -> bool:
    """Return whether nothing need be kept of a sensor for whose silence, by the job's clock, nobody waits any more."""
    return silent_ms >= FORGOTTEN_S * 1000 and not has_incident(sensor)


def has_incident(sensor: Sensor) -> bool:
    """Return whether any incident of a sensor is open."""
    states = (sensor.high_wind, sensor.implausible, sensor.stuck, sensor.no_data)
    return any(state.started is not None for state in states)


def next_look_s(sensor: Sensor, others: int | None, thresholds: WindThresholds, silent_ms: int = 0) -> float:
    """Return in how many seconds to ask `silence` again; where only a window can change anything, to forget it.

    Parameters
    ----------
    silent_ms : int
        For how long there was no window, by the job's clock.
    """
    state, own = sensor.no_data, thresholds.no_data
    longest = longest_silence(state, own)
    if longest is None or state.started is not None:
        return SELDOM_S if has_incident(sensor) else FORGOTTEN_S
    if state.doubted is not None:
        return own.confirm_s
    left = longest - silent_ms if silent_ms < longest else longest
    wait_s = own.least_s if others is None else min(sensor.last + longest - others, left) / 1000
    return min(max(wait_s, own.confirm_s), SELDOM_S)


def _row(sensor: Sensor, code: str, event: Event) -> dict[str, Any]:
    return dict.fromkeys(("timestamp", *names("wind_alarm"))) | sensor.place | {
        "timestamp": event.at,
        "wind_speed": event.wind_speed,
        "text_alarm": event.text,
        "code": code,
        "severity": event.severity,
        "state": event.state,
        "started_at": rfc3339(event.started),
    }  # fmt: skip


# -- words -------------------------------------------------------------------------------------------


def rfc3339(epoch_ms: int) -> str:
    """Return a time as text, to the second, UTC."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(milliseconds: float) -> str:
    seconds = round(milliseconds / 1000)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
