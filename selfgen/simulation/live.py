"""The live feed: what a fleet's devices send in a given second, from the measured days at each client's clock.

Wind sensors send every second, panels and light sensors every ten. The wind's mean and the curves of power and
irradiance are the measured ones, interpolated; gusts are simulated around the mean. One wind sensor, the fleet's
first, has a storm of 40 s in every two minutes, so that an alarm can be seen to rise and to clear.

>>> from datetime import UTC, datetime
>>> from selfgen.simulation.fleet import demo_fleet
>>> feed = LiveFeed(demo_fleet())
>>> len(feed.messages(datetime(2026, 6, 1, 12, tzinfo=UTC))) >= 6
True
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from selfgen.simulation.batch import Batch, Encoder, Times
from selfgen.simulation.disorder import Disorder, Mixer
from selfgen.simulation.fleet import KINDS, Fleet
from selfgen.simulation.measured import FIELDS, MINUTE_MS, Replay, in_order
from selfgen.simulation.noise import Floats, gusts, uniform
from selfgen.simulation.truth import Truth

SECOND_MS = 1000
#: Panels and light sensors send once in so many seconds.
SLOW_EVERY_S = 10

#: The storm: in each period (s), from and until when; its mean wind (m/s, Beaufort 9 begins at 20.8).
STORM_PERIOD_S, STORM_START_S, STORM_END_S = 120, 10, 50
STORM_MEAN = 22.0
#: Outside the storm the wind stays well below a gale (17.2 m/s).
CALM_LIMIT = 13.0

#: A few messages are broken, a few are sent twice within two seconds; none is late.
LIVE = Disorder(duplicated=0.01, late=0.0, broken=0.003, duplicate_after_ms=(0, 2000))


def is_storm(times_ms: Times) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return at which times the first wind sensor has its storm."""
    second = times_ms // SECOND_MS % STORM_PERIOD_S
    stormy: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (second >= STORM_START_S) & (second < STORM_END_S)
    return stormy


class LiveFeed:
    """The live feed of a fleet; ask for one second after the other.

    Parameters
    ----------
    fleet
        Whose elements send.
    seed
        The same seed and seconds give the same bytes.
    wind_interval_ms
        Between the readings of a wind sensor; 1000 or a divisor of it.
    disorder
        How much is sent twice or broken.

    Attributes
    ----------
    truth
        Counts of what was handed out.
    """

    def __init__(
        self, fleet: Fleet, seed: int = 0, *, wind_interval_ms: int = SECOND_MS, disorder: Disorder = LIVE
    ) -> None:
        if SECOND_MS % wind_interval_ms:
            raise ValueError(f"readings {wind_interval_ms} ms apart do not fill a second")
        self.seed, self.wind_interval_ms = seed, wind_interval_ms
        self.truth = Truth()
        self._mixer = Mixer(disorder, seed, self.truth)
        kinds = [kind for kind in KINDS if fleet.elements(kind)]
        self._parts = [(Replay(fleet, kind, bridged=True), Encoder(fleet, kind)) for kind in kinds]

    def messages(self, second: datetime) -> Batch:
        """Return what arrives in the second that begins then."""
        second_ms = int(second.timestamp()) * SECOND_MS
        readings = [self._readings(part, encoder, second_ms) for part, encoder in self._parts]
        return self._mixer.mix(in_order(Batch.concat(readings)), second_ms + SECOND_MS)

    def _readings(self, part: Replay, encoder: Encoder, second_ms: int) -> Batch:
        number = np.arange(len(part.owners))
        if part.kind == "wind":
            # each sensor has its own moment, so that the load is even
            phase = number * 137 % self.wind_interval_ms
            times = second_ms + np.arange(0, SECOND_MS, self.wind_interval_ms)[:, np.newaxis] + phase
            moments, place = np.unique(times, return_inverse=True)
            keep = np.zeros((len(moments), len(number)), np.bool_)
            keep[place.reshape(times.shape), number] = True
        else:
            moments = np.array([second_ms])
            keep = ((second_ms // SECOND_MS + number) % SLOW_EVERY_S == 0)[np.newaxis, :]
        if not keep.any():
            return Batch.concat([])
        values = interpolated(part, moments)
        for name in FIELDS[part.kind]:
            keep = keep & ~np.isnan(values[name])
        if part.kind == "wind":
            self._blow(values, moments)
        return encoder.encode(moments, values, keep)

    def _blow(self, values: dict[str, Floats], moments: Times) -> None:
        times = moments[:, np.newaxis]
        number = np.arange(values["wind_speed"].shape[1])
        gust = gusts(self.seed, number, times)
        speed = np.clip(values["wind_speed"] * gust, 0, CALM_LIMIT)
        stormy = is_storm(moments)
        # a storm never falls below 18.5 m/s
        speed[stormy, 0] = STORM_MEAN * (1 + 0.25 * (gust[stormy, 0] - 1))
        values["wind_speed"] = speed
        swing = 20 * (uniform(self.seed, 9, number, times) - 0.5)
        values["wind_direction"] = np.round(values["wind_direction"] + swing, 1) % 360


def interpolated(part: Replay, times_ms: Times) -> dict[str, Floats]:
    """Return the measured values at any time, between neighbours of the instrument; directions of the one before."""
    result: dict[str, Floats] = {}
    for every in np.unique(part.every).tolist():
        step = every * MINUTE_MS
        place, within = np.divmod(times_ms, step)
        before, after = part.at(place * step), part.at((place + 1) * step)
        share = (within / step)[:, np.newaxis]
        mine = part.every == every
        for name in before:
            between = before[name] if name == "wind_direction" else before[name] * (1 - share) + after[name] * share
            result.setdefault(name, np.empty_like(between))[:, mine] = between[:, mine]
    return result
