"""The thresholds of every alarm: their defaults, and how an element's own stand over them.

An element's own are in its `variable_data`:

>>> WindThresholds.of({"alarms": {"high_wind": {"gust": 15.0}}}).high_wind.gust
15.0
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

import msgspec
import structlog
from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Factor = Annotated[float, Meta(gt=0, le=10)]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86_400)]
Speed = Annotated[float, Meta(gt=0, le=120)]

#: Most neighbours that `StuckWind.neighbours` can ask for.
MOST_NEIGHBOURS = 5

_log = structlog.get_logger(__name__)


# -- wind sensors ------------------------------------------------------------------------------------


class HighWind(Struct, frozen=True, forbid_unknown_fields=True):
    """A gale: gusts of at least `gust` m/s in `windows` of the last `of` windows.

    Windows older than `within_s` seconds do not count, or than `of` of the sensor's usual intervals where these take
    longer. Cleared when for `clear_s` seconds, and at least `of` windows, no gust reached the share `clear` of the
    threshold.
    """

    gust: Speed = 17.2
    windows: Count = 3
    of: Annotated[int, Meta(ge=1, le=600)] = 5
    within_s: Seconds = 60.0
    clear: Annotated[float, Meta(gt=0, le=1)] = 0.8
    clear_s: Seconds = 60.0

    def __post_init__(self) -> None:
        """Refuse what can never be raised."""
        if self.windows > self.of:
            raise ValueError(f"{self.windows} of {self.of} windows can never be")


class ImplausibleWind(Struct, frozen=True, forbid_unknown_fields=True):
    """A jump beyond physics: the mean changed by more than `jump` m/s between windows at most `apart_s` seconds apart.

    `jumps` of them within `within_s` seconds raise. Cleared when for `clear_s` seconds of windows no change reached
    the share `clear` of a jump. The default is the greatest change between neighbouring values that the World
    Meteorological Organization's quality control of automatic stations lets pass.
    """

    jump: Speed = 20.0
    apart_s: Seconds = 60.0
    jumps: Annotated[int, Meta(ge=1, le=100)] = 1
    within_s: Seconds = 60.0
    clear: Annotated[float, Meta(gt=0, le=1)] = 0.5
    clear_s: Seconds = 300.0


class StuckWind(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value: the mean kept within `tolerance` m/s for `span_s` seconds and `windows` windows.

    Only where, in that span, at least `neighbours` other sensors of the same postal code moved, each by its own
    `moved` m/s: in a calm nothing moves. After a silence that is long enough for `no_data` the span begins anew.
    Cleared by `clear` windows in a row that each differ from the one before.
    """

    span_s: Seconds = 600.0
    windows: Count = 10
    tolerance: Annotated[float, Meta(ge=0, le=10)] = 0.001
    neighbours: Annotated[int, Meta(ge=1, le=MOST_NEIGHBOURS)] = 1
    moved: Speed = 2.0
    clear: Count = 3


class SilentWind(Struct, frozen=True, forbid_unknown_fields=True):
    """Silence (`no_data`): nothing for `intervals` usual intervals, at least `least_s` seconds, while others went on.

    Where nobody went on, nothing may be on its way through the jobs either. The usual interval is the median of the
    last ones, so it is known after a few windows. Raised when it is still so `confirm_s` seconds later; cleared by
    `clear` windows in a row that are not further apart than that.
    """

    intervals: Annotated[float, Meta(gt=1, le=10_000)] = 10.0
    least_s: Seconds = 60.0
    confirm_s: Seconds = 5.0
    clear: Count = 3


# -- panels and light sensors ------------------------------------------------------------------------


class NoData(Struct, frozen=True, forbid_unknown_fields=True):
    """Silence: completeness under `below` in `slots` daylight slots in a row; cleared by one of at least `clear`."""

    below: Share = 0.1
    slots: Count = 2
    clear: Share = 0.5

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear < self.below:
            raise ValueError(f"completeness to clear ({self.clear}) is under the one to raise ({self.below})")


class Stuck(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value: a stale share over `above` in `slots` daylight slots in a row; cleared by one under `clear`."""

    above: Share = 0.9
    slots: Count = 2
    clear: Share = 0.5

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear > self.above:
            raise ValueError(f"stale share to clear ({self.clear}) is over the one to raise ({self.above})")


class LowPower(Struct, frozen=True, forbid_unknown_fields=True):
    """Too little: a performance ratio under `below` in `slots` daylight slots, without `clear_slots` in between.

    Those are slots in a row from `clear` on, most of a day, which also clear: a panel that is shaded each afternoon is
    one incident. Slots count that were expected to give the share `least` of the rating, were covered to the half, and
    gave power.
    """

    below: Share = 0.75
    slots: Count = 8
    clear: Share = 0.85
    clear_slots: Count = 8
    least: Share = 0.1

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear < self.below:
            raise ValueError(f"performance ratio to clear ({self.clear}) is under the one to raise ({self.below})")


class NoPower(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing, though there was light: as `LowPower`, but next to nothing of what was expected."""

    below: Share = 0.02
    slots: Count = 2
    clear: Share = 0.05
    least: Share = 0.1

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear < self.below:
            raise ValueError(f"performance ratio to clear ({self.clear}) is under the one to raise ({self.below})")


class OverPower(Struct, frozen=True, forbid_unknown_fields=True):
    """Too much: a greatest power over `above` times the rating in `slots` daylight slots in a row.

    Cleared by `clear_slots` daylight slots in a row under `clear` times the rating: two days or so, for what is wrong
    with a rating or a unit shows in good light only.
    """

    above: Factor = 1.2
    slots: Count = 2
    clear: Factor = 1.1
    clear_slots: Count = 24

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear > self.above:
            raise ValueError(f"share of the rating to clear ({self.clear}) is over the one to raise ({self.above})")


class Clipping(Struct, frozen=True, forbid_unknown_fields=True):
    """A limit: the share `flat` of the samples at the slot's greatest power, in `slots` daylight slots in a row.

    Slots count whose greatest power is the share `least` of the rating or more. Cleared by `clear_slots` of them in a
    row, the most of two days, with a flat share under `clear`.
    """

    flat: Share = 0.9
    slots: Count = 2
    clear: Share = 0.8
    clear_slots: Count = 8
    least: Share = 0.4

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear > self.flat:
            raise ValueError(f"flat share to clear ({self.clear}) is over the one to raise ({self.flat})")


class ClockShift(Struct, frozen=True, forbid_unknown_fields=True):
    """A wrong clock: production or light in `slots` slots with the sun down, without `clear_slots` in a row in between.

    Slots count that show some, and each evening and morning the one that would have to. Cleared by `clear_slots` in a
    row that show none: three days.
    """

    slots: Count = 3
    clear_slots: Count = 6


class ImplausibleLight(Struct, frozen=True, forbid_unknown_fields=True):
    """Light that cannot be: over `above` times the most there is (`selfgen.solar.possible`), or under `below` times.

    The darkest storm lets more through. In `slots` slots in a row; those count that were covered to the half, and in
    which the most is `bright` W/m² or more. Cleared by `clear_slots` in a row between twice `below` and `clear` times.
    """

    above: Factor = 1.0
    below: Share = 0.003
    bright: Annotated[float, Meta(gt=50)] = 400.0
    slots: Count = 2
    clear: Factor = 0.9
    clear_slots: Count = 2

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear > self.above:
            raise ValueError(f"share of the possible to clear ({self.clear}) is over the one to raise ({self.above})")


class SoiledOrShaded(Struct, frozen=True, forbid_unknown_fields=True):
    """Less of a clear sky's light than before: the share of the last `hours` clear slots under `below`, `slots` times.

    Clear slots are as `selfgen.soiling` has them; those count that are no longer ago than 15 days, at least six. Slots
    at an hour that was dark on the last `days` days that were bright around it, and bright on none, count too. Cleared
    by as many slots in a row with a share of at least `clear`.
    """

    below: Share = 0.92
    clear: Share = 0.95
    slots: Count = 3
    hours: Annotated[int, Meta(ge=6, le=100)] = 18
    days: Annotated[int, Meta(ge=3, le=14)] = 8

    def __post_init__(self) -> None:
        """Refuse a threshold to clear that is harder than the one to raise."""
        if self.clear < self.below:
            raise ValueError(f"share to clear ({self.clear}) is under the one to raise ({self.below})")


# -- an element's own --------------------------------------------------------------------------------


class _OfElement(Struct, frozen=True, forbid_unknown_fields=True):
    @classmethod
    def of(cls, variable_data: Mapping[str, Any] | None) -> Self:
        """Return the defaults with an element's own, its `variable_data["alarms"]`, over them.

        Raises
        ------
        ValueError
            If they name something unknown, or are out of range.
        """
        return msgspec.convert((variable_data or {}).get("alarms", {}), cls)

    @classmethod
    def read(cls, variable_data: str | None) -> Self:
        """Return the thresholds of an element from JSON text.

        Where its own cannot be read the defaults hold, which is logged: they must not stop a job.
        """
        return _read(cls, variable_data) if isinstance(variable_data, str) else cls()


@lru_cache(maxsize=10_000)
def _read(kind: Any, variable_data: str) -> Any:
    try:
        return kind.of(msgspec.json.decode(variable_data))
    except (ValueError, AttributeError) as error:
        _log.warning("thresholds are not readable, the defaults hold", variable_data=variable_data, error=str(error))
        return kind()


class Thresholds(_OfElement, frozen=True, forbid_unknown_fields=True):
    """The thresholds of a panel's or light sensor's alarms, by their code."""

    no_data: NoData = NoData()
    stuck: Stuck = Stuck()
    low_power: LowPower = LowPower()
    no_power: NoPower = NoPower()
    over_power: OverPower = OverPower()
    clipping: Clipping = Clipping()
    clock_shift: ClockShift = ClockShift()
    implausible: ImplausibleLight = ImplausibleLight()
    soiled_or_shaded: SoiledOrShaded = SoiledOrShaded()


class WindThresholds(_OfElement, frozen=True, forbid_unknown_fields=True):
    """The thresholds of a wind sensor's alarms, by their code."""

    high_wind: HighWind = HighWind()
    implausible: ImplausibleWind = ImplausibleWind()
    stuck: StuckWind = StuckWind()
    no_data: SilentWind = SilentWind()
