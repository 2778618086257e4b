"""The simulator: any installations over any time, from typical years, with declared faults and a truth.

>>> from datetime import UTC, datetime
>>> from selfgen.simulation.fleet import make_fleet
>>> fleet = make_fleet(10)
>>> truth = Truth()
>>> day = generate(fleet, datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 2, tzinfo=UTC), truth=truth)
>>> sum(len(batch) for batch in day) == sum(topic.produced for topic in truth.topics.values())
True
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfgen.registry import Kind
from selfgen.simulation.batch import Batch, Encoder, Times, offsets_ms
from selfgen.simulation.disorder import USUAL, Disorder, Mixer
from selfgen.simulation.fleet import KINDS, Fleet
from selfgen.simulation.measured import DAY_MS, HOUR_MS, MINUTE_MS, in_order
from selfgen.simulation.noise import Floats, gusts, uniform
from selfgen.simulation.truth import Fault, FaultKind, Truth
from selfgen.simulation.weather import Sky, ac_power, sky

#: Interval between the readings of an element, ms.
INTERVALS_MS: dict[Kind, int] = {"wind": 1000, "light": MINUTE_MS, "panel": MINUTE_MS}

#: Messages made at a time, about: what memory depends on, beside the number of elements.
SLICE = 100_000

#: Readings of two instruments side by side differ by this share.
_INSTRUMENT_NOISE = 0.003
#: Local hours of a `shaded` panel's shade.
_SHADE_HOURS = (14, 24)
#: What a shifted clock is off besides, ms.
_OFF_BEAT_MS = 500


def generate(
    fleet: Fleet,
    start: datetime,
    end: datetime,
    seed: int = 0,
    *,
    intervals_ms: Mapping[Kind, int] = INTERVALS_MS,
    meter: bool = False,
    faults: Sequence[Fault] = (),
    disorder: Disorder = USUAL,
    truth: Truth | None = None,
) -> Iterator[Batch]:
    """Return the messages of a fleet from `start` until before `end`, in order of arrival.

    Memory does not depend on the length of the span.

    Parameters
    ----------
    fleet
        Whose elements send them.
    start, end
        Half-open span of event times.
    seed
        The same arguments give the same bytes.
    intervals_ms
        Milliseconds between readings, by kind; a kind that is not in it sends nothing.
    meter
        Whether panels send `energy`, their cumulative meter (Wh), too.
    faults
        What is wrong with which element and when; see `random_faults`.
    disorder
        How much is sent twice, late, or broken.
    truth
        Is given the faults, and the counts as batches are handed out.
    """
    truth = truth if truth is not None else Truth()
    truth.faults += faults
    mixer = Mixer(disorder, seed, truth)
    parts = [
        Part(
            fleet,
            kind,
            intervals_ms[kind],
            seed=seed,
            meter=meter,
            faults=[fault for fault in faults if fault.topic == kind],
        )
        for kind in KINDS
        if kind in intervals_ms and fleet.elements(kind)
    ]
    start_ms, end_ms = (int(time.timestamp() * 1000) for time in (start, end))
    step = slice_ms(parts)
    for begin in range(start_ms, end_ms, step):
        until = min(begin + step, end_ms)
        yield mixer.mix(in_order(Batch.concat(part.readings(begin, until) for part in parts)), until)
    yield mixer.mix(Batch.concat([]), None)


def slice_ms(parts: Sequence[Part]) -> int:
    """Return the span of time that has about `SLICE` messages: full minutes where it can, a day at most."""
    per_ms = sum(len(part.owners) / part.interval_ms for part in parts)
    span = int(SLICE / per_ms) if per_ms else DAY_MS
    return min(span // MINUTE_MS * MINUTE_MS, DAY_MS) or max(span, 1)


def lag_ms(fault: Fault) -> int:
    """Return how far behind a shifted clock is, ms: no whole minutes, or two readings would claim the same time."""
    return round(fault.amount * 60) * MINUTE_MS + _OFF_BEAT_MS


class Sampled(NamedTuple):
    """What devices measure, by field, in matrices of shape (times, elements).

    `keep`: whether it is sent. `behind_ms`: how much older than it is the message claims it to be.
    """

    values: dict[str, Floats]
    keep: NDArray[np.bool_]
    behind_ms: Times


@dataclass
class _Meters:
    """Cumulative meters of panels, Wh, and the last sample that they counted."""

    total: Floats
    last_ms: int | None = None
    last_power: Floats = field(default_factory=lambda: np.empty(0))


class Part:
    """The elements of one kind, and what they need to remember from one slice of time to the next."""

    def __init__(
        self, fleet: Fleet, kind: Kind, interval_ms: int, *, seed: int, meter: bool, faults: Sequence[Fault]
    ) -> None:
        self.kind, self.interval_ms, self.seed, self.faults = kind, interval_ms, seed, faults
        self.encoder = Encoder(fleet, kind)
        self.owners = fleet.owners(kind)
        self.number = np.arange(len(self.owners))
        self.numbers = {element_id: number for number, element_id in enumerate(fleet.ids(kind))}
        self.panels = fleet.panels if kind == "panel" else ()
        self.power_cap = np.array([panel.power_cap for panel in self.panels])
        # one sky for all within about 10 km
        places = [(round(client.latitude, 1), round(client.longitude, 1)) for client in self.owners]
        self.places = {place: np.array([p == place for p in places]) for place in sorted(set(places))}
        self.meters = (
            _Meters(1000 * np.round(uniform(seed, 5, self.number) * self.power_cap)) if meter and self.panels else None
        )
        self.frozen: dict[Fault, dict[str, float]] = {}

    def readings(self, begin_ms: int, until_ms: int) -> Batch:
        """Return the readings of a slice of time, without disorder."""
        times = np.arange(-(-begin_ms // self.interval_ms) * self.interval_ms, until_ms, self.interval_ms)
        if not len(times):
            return Batch.concat([])
        values, keep, behind_ms = self.sampled(times)
        if not behind_ms.any():
            return self.encoder.encode(times, values, keep)
        batches = []
        for lag in np.unique(behind_ms).tolist():
            claimed = self.encoder.encode(times - lag, values, keep & (behind_ms == lag))
            batches.append(replace(claimed, event_ms=claimed.event_ms + lag))
        return Batch.concat(batches)

    def sampled(self, times: Times) -> Sampled:
        """Return what the devices measure and send at these times, which follow those of the call before."""
        shape = (len(times), len(self.owners))
        keep, behind_ms = np.ones(shape, np.bool_), np.zeros(shape, np.int64)
        values = self._values(times)
        for fault in self.faults:
            self._change(fault, times, values)
        if self.meters is not None:
            values["energy"] = self._count(self.meters, times, values["power"])
        for fault in self.faults:
            self._silence(fault, times, values, keep)
            if fault.kind == "clock_shift":
                behind_ms[fault.covers(times), self.numbers[fault.element_id]] = lag_ms(fault)
        return Sampled(values, keep, behind_ms)

    def _values(self, times: Times) -> dict[str, Floats]:
        shape = (len(times), len(self.owners))
        values = {name: np.empty(shape) for name in _FIELDS[self.kind]}
        # irradiance is computed at the readings, or every minute and interpolated between
        grid = times
        if self.interval_ms < MINUTE_MS:
            grid = np.arange(times[0] // MINUTE_MS, times[-1] // MINUTE_MS + 2) * MINUTE_MS
        for (latitude, longitude), here in self.places.items():
            weather = sky(grid, latitude, longitude, self.seed)
            for name, column in self._under(weather, here).items():
                values[name][:, here] = column if grid is times else _interpolated(column, grid, times)
        noise = self._scatter(self.number, times[:, np.newaxis])
        if self.kind == "wind":
            values["wind_speed"] *= gusts(self.seed + 20, self.number, times[:, np.newaxis])
            swing = 15 * (uniform(self.seed, 7, self.number, times[:, np.newaxis]) - 0.5)
            # rounding must not make 360 of it
            values["wind_direction"] = np.round(values["wind_direction"] + swing, 1) % 360
        else:
            values["power" if self.kind == "panel" else "irradiance"] *= noise
        return values

    def _scatter(self, number: int | NDArray[np.int64], times: Times) -> Floats:
        """Return the factor by which each reading of each element is off."""
        return 1 + _INSTRUMENT_NOISE * (2 * uniform(self.seed, 6, number, times) - 1)

    def _under(self, weather: Sky, here: NDArray[np.bool_]) -> dict[str, Floats]:
        """Return the values of the elements at one place; shape (times, elements there)."""
        count = int(here.sum())

        def alike(values: Floats) -> Floats:
            return np.broadcast_to(values[:, np.newaxis], (len(values), count))

        if self.kind == "wind":
            return {
                "wind_speed": alike(weather.wind_speed),
                "wind_direction": alike(weather.wind_direction),
                "temperature": alike(weather.temp_air),
            }
        if self.kind == "light":
            # thermopiles read slightly below zero under a night sky
            irradiance = np.where(weather.ghi > 0, weather.ghi, -1.5)
            return {"irradiance": alike(irradiance), "temperature": alike(weather.temp_air)}
        panels = [panel for panel, chosen in zip(self.panels, here, strict=True) if chosen]
        tilt = np.array([panel.tilt or 0.0 for panel in panels])
        azimuth = np.array([180.0 if panel.azimuth is None else panel.azimuth for panel in panels])
        power, temperature = ac_power(weather, tilt, azimuth, self.power_cap[here])
        return {"power": power, "temperature": temperature}

    def _change(self, fault: Fault, times: Times, values: dict[str, Floats]) -> None:
        """Play a fault that changes what is really produced or measured."""
        number, inside = self.numbers[fault.element_id], fault.covers(times)
        if not inside.any():
            return
        column = values[_FIELDS[self.kind][0]][:, number]
        now = times[inside]
        match fault.kind:
            case "drifting":
                start_ms, end_ms = fault.span_ms
                column[inside] *= 1 - fault.amount * (now - start_ms) / (end_ms - start_ms)
            case "shaded":
                hour = (now + offsets_ms(now, self.owners[number].time_zone)) % DAY_MS // HOUR_MS
                shaded = (hour >= _SHADE_HOURS[0]) & (hour < _SHADE_HOURS[1])
                column[inside] *= 1 - np.where(shaded, fault.amount, 0.0)
            case "off":
                column[inside] = 0.0
            case "weak":
                column[inside] *= 1 - fault.amount
            case "limited":
                # what is limited is the power, not what the instrument makes of it
                limit = fault.amount * self.power_cap[number] * self._scatter(number, now)
                column[inside] = np.minimum(column[inside], limit)
            case "scaled":
                column[inside] *= fault.amount

    def _silence(self, fault: Fault, times: Times, values: dict[str, Floats], keep: NDArray[np.bool_]) -> None:
        """Play a fault of what is sent."""
        number, inside = self.numbers[fault.element_id], fault.covers(times)
        if not inside.any():
            return
        if fault.kind == "dropped":
            keep[inside, number] = False
        elif fault.kind == "stuck":
            first = int(np.argmax(inside))
            first_values = {name: column[first, number] for name, column in values.items()}
            frozen = self.frozen.setdefault(fault, first_values)
            for name, column in values.items():
                column[inside, number] = frozen[name]

    def _count(self, meters: _Meters, times: Times, power: Floats) -> Floats:
        """Return the meters' readings (Wh) at each time: the trapezoids of all samples so far."""
        power = np.clip(power, 0, None)
        if meters.last_ms is None:
            meters.last_ms, meters.last_power = int(times[0]), power[0]
        hours = np.diff(times, prepend=meters.last_ms) / HOUR_MS
        before = np.vstack([meters.last_power, power[:-1]])
        energy: Floats = meters.total + np.cumsum((before + power) / 2 * hours[:, np.newaxis], axis=0)
        for fault in self.faults:
            after = times >= fault.span_ms[0]
            if fault.kind == "meter_reset" and fault not in self.frozen and after.any():
                number, first = self.numbers[fault.element_id], int(np.argmax(after))
                energy[first:, number] -= energy[first, number]
                self.frozen[fault] = {}
        meters.total, meters.last_ms, meters.last_power = energy[-1], int(times[-1]), power[-1]
        return energy


_FIELDS: dict[Kind, tuple[str, ...]] = {
    "panel": ("power", "temperature"),
    "light": ("irradiance", "temperature"),
    "wind": ("wind_speed", "wind_direction", "temperature"),
}


def _interpolated(column: Floats, grid: Times, times: Times) -> Floats:
    place, within = np.divmod(times - grid[0], MINUTE_MS)
    share = (within / MINUTE_MS)[:, np.newaxis]
    values: Floats = column[place] * (1 - share) + column[place + 1] * share
    return values


#: Faults that `random_faults` draws, by kind of element: hours (from, to; None: until the end), amounts.
_DRAWN: dict[Kind, tuple[tuple[FaultKind, tuple[float, float] | None, tuple[float, float]], ...]] = {
    "panel": (
        ("stuck", (3, 8), (0, 0)),
        ("dropped", (3, 30), (0, 0)),
        ("drifting", None, (0.3, 0.6)),
        ("shaded", (72, 720), (0.4, 0.8)),
        ("meter_reset", (0, 0), (0, 0)),
        ("off", (8, 240), (0, 0)),
        ("weak", (72, 720), (0.3, 0.7)),
        ("limited", (168, 720), (0.4, 0.7)),
        ("scaled", (72, 720), (1.5, 3)),
        ("clock_shift", (168, 720), (1, 6)),
    ),
    "light": (("stuck", (3, 8), (0, 0)), ("dropped", (2, 30), (0, 0)), ("drifting", None, (0.2, 0.5))),
    "wind": (("stuck", (1, 4), (0, 0)), ("dropped", (0.2, 4), (0, 0))),
}


def random_faults(
    fleet: Fleet, start: datetime, end: datetime, share: float, seed: int = 0, *, meter: bool = False
) -> list[Fault]:
    """Return faults for a share of the elements of each kind, one fault an element, the sorts in turn.

    Those of panels and light sensors begin in daylight. A fault that would last beyond `end` ends there.
    """
    random = np.random.default_rng(seed)
    faults = []
    for kind in KINDS:
        drawn = [fault for fault in _DRAWN[kind] if meter or fault[0] != "meter_reset"]
        ids, owners = fleet.ids(kind), fleet.owners(kind)
        chosen = random.permutation(len(ids))[: round(share * len(ids))]
        for turn, number in enumerate(chosen.tolist()):
            fault, hours, amounts = drawn[turn % len(drawn)]
            begin = start + (end - start) * random.uniform(0.05, 0.6)
            if kind != "wind":
                # 9 to 12 in mean solar time
                noon = begin.astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
                begin = noon + timedelta(hours=random.uniform(-3, 0) - owners[number].longitude / 15)
                begin = max(begin, start)
            begin = begin.replace(microsecond=0)
            finish = end if hours is None else min(end, begin + timedelta(hours=random.uniform(*hours)))
            amount = round(random.uniform(*amounts), 3)
            faults.append(Fault(fault, kind, ids[number], begin, finish.replace(microsecond=0), amount))
    return faults
