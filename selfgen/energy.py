"""Energy accounting: readings of power and of meters become energy per element, owner and slot.

Pure functions on whole arrays. Every figure of a row follows from the readings in and next to its slot and
from nothing else: a range computed at once or in pieces, from readings in any order, gives the same rows bit
for bit.

>>> readings = pd.DataFrame({"element_id": "P-1", "time": np.arange(121) * 60_000, "value": 1200.0})
>>> account(readings, NO_OWNERS, 0, 7_200_000)[["power_gen", "completeness"]].to_numpy().tolist()
[[1200.0, 1.0], [1200.0, 1.0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen import calendar
from selfgen.calendar import HOUR_MS, Int64
from selfgen.columns import ACCUMULATORS, DIFFERENCES

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Expected = Callable[[pd.DataFrame], npt.ArrayLike]

#: End of a period of ownership that has none; also its start where it has always been.
OPEN_END = int(np.iinfo(np.int64).max)
OPEN_START = -OPEN_END
#: Owner of what the registry gives to nobody.
NOBODY = -1
#: Clock of what belongs to nobody.
NOBODYS_ZONE = "UTC"
#: A meter that falls by less than this share of its last value jitters; by more, it began anew.
METER_JITTER = 0.1

#: Columns of `account`.
ROW_TYPES = {
    "element_id": object,
    "owner": np.int64,
    "slot_start": np.int64,
    "slot_end": np.int64,
    "owned_start": np.int64,
    "owned_end": np.int64,
    "power_gen": np.float64,
    "estimated_gen": np.float64,
    "power_max": np.float64,
    "completeness": np.float64,
    "samples": np.int64,
    "meter_resets": np.int64,
}

NO_OWNERS = pd.DataFrame(
    {
        "element_id": pd.Series(dtype=object),
        "init": pd.Series(dtype=np.int64),
        "end": pd.Series(dtype=np.int64),
        "time_zone": pd.Series(dtype=object),
    }
)


@dataclass(frozen=True)
class _Samples:
    """Readings in order of element and time, each instant once."""

    elements: npt.NDArray[Any]  # element ids, sorted
    element: Int64  # index into `elements`
    time: Int64
    power: Float64  # never negative
    meter: Float64  # NaN: not sent


@dataclass(frozen=True)
class _Gaps:
    """Between each sample and the next in the arrays."""

    length: Int64  # ms
    covered: Bool  # of one element, and short enough
    metered: Bool  # of one element, and both samples carry the meter
    increase: Float64  # of the meter, Wh; 0 where not metered
    backlog: Bool  # too long, but the meter says that something was produced
    reset: Bool  # the meter began anew


@dataclass(frozen=True)
class _Tenures:
    """Who has which element when, without gap: periods of owners and, between them, of nobody."""

    element: Int64
    start: Int64
    end: Int64
    owner: Int64
    zone: Int64  # index into `zones`
    zones: list[str]

    def at(self, element: Int64, instants: Int64) -> Int64:
        """Return the tenure that holds each instant of each element."""
        first, last = int(instants.min()), int(instants.max())
        # one number for element and time; what lies outside of the readings' time may fall together
        width = last - first + 3
        starts = self.element * width + np.clip(self.start, first - 1, last + 1) - (first - 1)
        return np.searchsorted(starts, element * width + instants - (first - 1), side="right") - 1


@dataclass(frozen=True)
class _Slots:
    """The slots of several zones, one zone after the other; slot k lies between borders k and k + 1."""

    borders: Int64
    bounds: list[int]  # of each zone's borders, one more than there are zones

    def at(self, zone: Int64, instants: Int64) -> Int64:
        """Return the slot that holds each instant on each zone's clock."""
        slots = np.empty(len(instants), np.int64)
        for number, (first, end) in enumerate(pairwise(self.bounds)):
            chosen = np.flatnonzero(zone == number)
            found = np.searchsorted(self.borders[first:end], instants[chosen], side="right")
            slots[chosen] = first - 1 + found
        return slots


@dataclass(frozen=True)
class _Pieces:
    """Gaps cut at the borders of tenures and slots; in order of element and time."""

    gap: Int64  # index into `_Gaps`
    tenure: Int64
    slot: Int64
    start: Int64
    end: Int64

    def only(self, chosen: Bool) -> _Pieces:
        return _Pieces(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def account(
    readings: pd.DataFrame,
    owners: pd.DataFrame,
    start_ms: int,
    end_ms: int,
    *,
    max_gap_s: float = 300.0,
    expected: Expected | None = None,
    bridged: bool = True,
) -> pd.DataFrame:
    """Return the energy of each element, owner and slot that starts in `[start_ms, end_ms)`.

    Between neighbouring samples at most `max_gap_s` apart, energy is the trapezoid of their power or, where
    both carry the cumulative meter, its increase, in proportion to time. A longer gap gives nothing but what
    the meter says was produced in it: that is spread over the gap in proportion to the expected energy, and
    told apart in `estimated_gen`.

    Parameters
    ----------
    readings : pandas.DataFrame
        `element_id`; `time`, int64 ms UTC; `value`, W (or W/m²: read Wh as Wh/m² below), below zero counts
        as zero; optionally `energy`, the cumulative meter, Wh, NaN where not sent. In any order. It includes
        the neighbours of the range (`reading_range`), and of metered elements the last reading before it and
        the first after it, however far they are.
    owners : pandas.DataFrame
        A row for each period of ownership `[init, end)`: `element_id`, `init`, `end` (int64 ms UTC;
        `OPEN_END` where it has none), `time_zone` (IANA). Its integer index names the rows.
    start_ms, end_ms : int
        Range of slot starts, ms UTC.
    max_gap_s : float
        Longest gap that counts as covered, s.
    expected : callable, optional
        Given a frame of slots (`element_id`, `owner`, `slot_start`, `slot_end`), returns the energy expected
        in each whole slot, Wh, NaN where there is no expectation. Asked for the slots of long metered gaps.
        Where there is none, time takes its place.
    bridged : bool
        Whether long gaps over the end of a UTC hour are spread as well, and a meter that began anew in one is told.
        Without them the neighbours of the range will do, and they are left to `selfgen.bridges`.

    Returns
    -------
    pandas.DataFrame
        A row for each element, period, and slot, in this order, that holds a sample or known energy. A period is
        one of ownership or one of nobody: before the first owner, between two, after the last. Columns:
        `element_id`; `owner`, the period's index label, `NOBODY` where there is none (UTC's slots then);
        `slot_start`, `slot_end`, ms UTC, those of the whole slot, also where only a part of it was owned, which is
        from `owned_start` to `owned_end`;
        `power_gen`, Wh; `estimated_gen`, Wh, the part of power_gen that was spread over long gaps;
        `power_max`, W, NaN without sample; `completeness`, covered share of the owned part of the slot;
        `samples`; `meter_resets`.

    Raises
    ------
    ValueError
        Two periods of ownership of one element overlap.
    """
    if readings.empty:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in ROW_TYPES.items()})
    work = _work(readings, owners, max_gap_s, expected, bridged)
    samples, gaps, tenures, slots = work.samples, work.gaps, work.tenures, work.slots
    pieces, energy = work.pieces, work.energy
    tenure, slot, backlog = work.sample_tenure, work.sample_slot, gaps.backlog[pieces.gap]

    def in_range(slot: Int64) -> Bool:
        begins = slots.borders[slot]
        return (begins >= start_ms) & (begins < end_ms)

    # a row is a (tenure, slot) that holds something; samples and pieces are in this order already
    width = len(slots.borders)
    counted = in_range(slot)
    sample_key = (tenure * width + slot)[counted]
    kept = in_range(pieces.slot) & (~backlog | (energy > 0))
    pieces, backlog, energy = pieces.only(kept), backlog[kept], energy[kept]
    piece_key = pieces.tenure * width + pieces.slot
    keys = np.union1d(_distinct(sample_key), _distinct(piece_key))
    sample_row, piece_row = np.searchsorted(keys, sample_key), np.searchsorted(keys, piece_key)

    def total(of_piece: npt.NDArray[Any]) -> Float64:
        # adds one by one in order of time, so that a sum does not depend on where the arrays begin
        return np.bincount(piece_row, weights=of_piece, minlength=len(keys)).astype(np.float64, copy=False)

    row_tenure, row_slot = np.divmod(keys, width)
    slot_start, slot_end = slots.borders[row_slot], slots.borders[row_slot + 1]
    owned_start = np.maximum(slot_start, tenures.start[row_tenure])
    owned_end = np.minimum(slot_end, tenures.end[row_tenure])
    power_max = np.full(len(keys), -1.0)
    np.maximum.at(power_max, sample_row, samples.power[counted])
    resets = np.concatenate([[False], gaps.reset])[counted]
    return pd.DataFrame(
        {
            "element_id": samples.elements[tenures.element[row_tenure]],
            "owner": tenures.owner[row_tenure],
            "slot_start": slot_start,
            "slot_end": slot_end,
            "owned_start": owned_start,
            "owned_end": owned_end,
            "power_gen": total(energy),
            "estimated_gen": total(np.where(backlog, energy, 0.0)),
            "power_max": np.where(power_max < 0, np.nan, power_max),
            "completeness": total(np.where(backlog, 0, pieces.end - pieces.start)) / (owned_end - owned_start),
            "samples": np.bincount(sample_row, minlength=len(keys)),
            "meter_resets": np.bincount(sample_row[resets], minlength=len(keys)),
        }
    ).astype(ROW_TYPES)


@dataclass(frozen=True)
class _Work:
    """Readings cut into pieces, each with its energy."""

    samples: _Samples
    gaps: _Gaps
    tenures: _Tenures
    slots: _Slots
    sample_tenure: Int64
    sample_slot: Int64
    pieces: _Pieces
    energy: Float64  # of each piece, Wh


def _work(
    readings: pd.DataFrame, owners: pd.DataFrame, max_gap_s: float, expected: Expected | None, bridged: bool = True
) -> _Work:
    samples = _samples(readings)
    gaps = _gaps(samples, max_gap_s * 1000, bridged)
    tenures = _tenures(owners, samples.elements)
    slots = _slots(tenures.zones, int(samples.time.min()), int(samples.time.max()))
    tenure = tenures.at(samples.element, samples.time)
    slot = slots.at(tenures.zone[tenure], samples.time)

    pieces = _cut(samples, gaps, tenure, tenures, slots)
    backlog = gaps.backlog[pieces.gap]
    share = (pieces.end - pieces.start) / gaps.length[pieces.gap]
    if expected is not None and backlog.any():
        spread = pieces.only(backlog)
        weight = _expected_energy(spread, samples, tenures, slots, expected)
        share[backlog] = _shares(spread.gap, weight, share[backlog])
    by_meter = gaps.increase[pieces.gap] * share
    energy = np.where(gaps.metered[pieces.gap], by_meter, _trapezoid(pieces, samples, gaps))
    return _Work(samples, gaps, tenures, slots, tenure, slot, pieces, energy)


def trace(
    readings: pd.DataFrame,
    owners: pd.DataFrame,
    start_ms: int,
    end_ms: int,
    *,
    max_gap_s: float = 300.0,
    expected: Expected | None = None,
) -> pd.DataFrame:
    """Return what `account` adds up: each stretch between neighbouring samples, cut at borders of slots and owners.

    The parameters are those of `account`.

    Returns
    -------
    pandas.DataFrame
        In order of element and time: `element_id`, `owner`, `slot_start`; `start`, `end` of the stretch's part in that
        slot, and `before`, `after`, its samples' times, ms UTC; `method`: `power` (the trapezoid), `meter` (its
        increase), `backlog` (the increase over a gap that is too long), `gap` (nothing); `reset`, whether the meter
        began anew; the samples' `power_before`, `power_after`, W, and `meter_before`, `meter_after`, Wh; `energy`, Wh.
    """
    names = ["power_before", "power_after", "meter_before", "meter_after", "energy"]
    times = ["slot_start", "start", "end", "before", "after"]
    if len(readings) < 2:
        return pd.DataFrame(columns=["element_id", "owner", *times, "method", "reset", *names])
    work = _work(readings, owners, max_gap_s, expected)
    samples, gaps, pieces = work.samples, work.gaps, work.pieces
    nothing = replace(
        gaps,
        covered=(np.diff(samples.element) == 0) & ~gaps.covered & ~gaps.backlog,
        backlog=np.zeros_like(gaps.backlog),
    )
    empty = _cut(samples, nothing, work.sample_tenure, work.tenures, work.slots)
    gap = np.concatenate([pieces.gap, empty.gap])
    tenure = np.concatenate([pieces.tenure, empty.tenure])
    method = np.where(gaps.backlog[gap], "backlog", np.where(gaps.metered[gap], "meter", "power")).astype(object)
    method[len(pieces.gap) :] = "gap"
    frame = pd.DataFrame(
        {
            "element_id": samples.elements[samples.element[gap]],
            "owner": work.tenures.owner[tenure],
            "slot_start": work.slots.borders[np.concatenate([pieces.slot, empty.slot])],
            "start": np.concatenate([pieces.start, empty.start]),
            "end": np.concatenate([pieces.end, empty.end]),
            "before": samples.time[gap],
            "after": samples.time[gap + 1],
            "method": method,
            "reset": gaps.reset[gap],
            "power_before": samples.power[gap],
            "power_after": samples.power[gap + 1],
            "meter_before": samples.meter[gap],
            "meter_after": samples.meter[gap + 1],
            "energy": np.concatenate([work.energy, np.zeros(len(empty.gap))]),
        }
    )
    inside = frame["slot_start"].between(start_ms, end_ms, inclusive="left")
    return frame[inside].sort_values(["element_id", "start"], ignore_index=True)


def reading_range(zones: Iterable[str], start_ms: int, end_ms: int, *, max_gap_s: float = 300.0) -> tuple[int, int]:
    """Return the range of readings that `account` needs for the slots that start in `[start_ms, end_ms)`.

    Metered elements need besides the last reading before it and the first after it: a backlog may span it.

    Parameters
    ----------
    zones : iterable of str
        The owners' IANA time zones.
    start_ms, end_ms : int
        Range of slot starts, ms UTC.
    max_gap_s : float
        Longest gap that counts as covered, s.

    Returns
    -------
    from_ms, to_ms : int
        Half-open range of event times, ms UTC.
    """
    margin = math.ceil(max_gap_s * 1000)
    ends = (calendar.slots_covering(zone, start_ms, end_ms)[-1] for zone in {NOBODYS_ZONE, *zones})
    return start_ms - margin, int(max(ends)) + margin + 1


def _samples(readings: pd.DataFrame) -> _Samples:
    element, elements = pd.factorize(readings["element_id"], sort=True)
    time = readings["time"].to_numpy(np.int64)
    power = readings["value"].to_numpy(np.float64)
    meter = (
        readings["energy"].to_numpy(np.float64, na_value=np.nan)
        if "energy" in readings
        else np.full(len(readings), np.nan)
    )
    order = np.lexsort((time, element))
    again = (np.diff(element[order]) == 0) & (np.diff(time[order]) == 0)
    if again.any():
        # an identity has one value; should two be given, the choice does not depend on their order
        order = np.lexsort((meter, power, time, element))
        order = order[~np.concatenate([again, [False]])]
    return _Samples(np.asarray(elements), element[order], time[order], np.maximum(power[order], 0.0), meter[order])


def _gaps(samples: _Samples, max_gap_ms: float, bridged: bool) -> _Gaps:
    length = np.diff(samples.time)
    neighbours = np.diff(samples.element) == 0
    before, after = samples.meter[:-1], samples.meter[1:]
    metered = neighbours & ~np.isnan(before) & ~np.isnan(after)
    increase, reset = meter_increase(np.where(metered, before, 0.0), np.where(metered, after, 0.0))
    short = length <= max_gap_ms
    hour = samples.time // HOUR_MS
    told = short | bridged | (np.diff(hour) == 0)
    return _Gaps(length, neighbours & short, metered, increase, ~short & (increase > 0) & told, reset & told)


def meter_increase(before: Float64, after: Float64) -> tuple[Float64, Bool]:
    """Return what meters counted between two readings each, Wh, and whether they began anew."""
    increase = after - before
    reset = (-increase >= METER_JITTER * before) & (increase < 0)
    return np.where(reset, after, np.maximum(increase, 0.0)), reset


def _tenures(owners: pd.DataFrame, elements: npt.NDArray[Any]) -> _Tenures:
    element = pd.Index(elements).get_indexer(pd.Index(owners["element_id"]))
    init, end = owners["init"].to_numpy(np.int64), owners["end"].to_numpy(np.int64)
    here = np.flatnonzero((element >= 0) & (init < end))
    here = here[np.lexsort((init[here], element[here]))]
    element, init, end = element[here], init[here], end[here]
    overlap = (np.diff(element) == 0) & (init[1:] < end[:-1])
    if overlap.any():
        raise ValueError(f"periods of ownership overlap: element {elements[element[:-1][overlap][0]]!r}")

    every = np.arange(len(elements))
    idle_element = np.sort(np.concatenate([every, element]))
    idle_start, idle_end = np.full(len(idle_element), OPEN_START), np.full(len(idle_element), OPEN_END)
    # an element's periods of nobody: before the first owner, between owners, after the last
    place = np.arange(len(element)) + element
    idle_start[place + 1], idle_end[place] = end, init
    idle = idle_start < idle_end

    zone, zones = pd.factorize(
        np.concatenate([owners["time_zone"].to_numpy()[here], np.full(idle.sum(), NOBODYS_ZONE, object)])
    )
    tenure_element = np.concatenate([element, idle_element[idle]])
    start = np.concatenate([init, idle_start[idle]])
    order = np.lexsort((start, tenure_element))
    return _Tenures(
        tenure_element[order],
        start[order],
        np.concatenate([end, idle_end[idle]])[order],
        np.concatenate([owners.index.to_numpy(np.int64)[here], np.full(idle.sum(), NOBODY)])[order],
        zone[order],
        list(zones),
    )


def _slots(zones: list[str], first_ms: int, last_ms: int) -> _Slots:
    borders = [calendar.slots_covering(zone, first_ms, last_ms + 1) for zone in zones]
    return _Slots(np.concatenate(borders), [0, *np.cumsum([len(of_zone) for of_zone in borders])])


def _cut(samples: _Samples, gaps: _Gaps, tenure: Int64, tenures: _Tenures, slots: _Slots) -> _Pieces:
    """Cut the gaps that give energy, first where the element changes hands, then at the borders of slots."""
    gap = np.flatnonzero(gaps.covered | gaps.backlog)
    start, end = samples.time[gap], samples.time[gap + 1]
    last = tenure[gap + 1]
    part, tenure = _each(tenure[gap], last - (tenures.start[last] == end))
    gap = gap[part]
    start = np.maximum(start[part], tenures.start[tenure])
    end = np.minimum(end[part], tenures.end[tenure])

    zone = tenures.zone[tenure]
    part, slot = _each(slots.at(zone, start), slots.at(zone, end - 1))
    start = np.maximum(start[part], slots.borders[slot])
    end = np.minimum(end[part], slots.borders[slot + 1])
    return _Pieces(gap[part], tenure[part], slot, start, end)


def _each(first: Int64, last: Int64) -> tuple[Int64, Int64]:
    """Return every number from each first to its last, and the position of the pair it comes from."""
    count = last - first + 1
    position = np.repeat(np.arange(len(first)), count)
    return position, first[position] + np.arange(len(position)) - (np.cumsum(count) - count)[position]


def _trapezoid(pieces: _Pieces, samples: _Samples, gaps: _Gaps) -> Float64:
    """Return the energy of each piece from the power at its ends, interpolated between the samples, Wh."""
    length = gaps.length[pieces.gap]
    before, after = samples.power[pieces.gap], samples.power[pieces.gap + 1]
    from_before, from_before_end = (
        pieces.start - samples.time[pieces.gap],
        pieces.end - samples.time[pieces.gap],
    )
    # weights of both samples, so that the power at a sample is exactly the sample's
    at_start = before * ((length - from_before) / length) + after * (from_before / length)
    at_end = before * ((length - from_before_end) / length) + after * (from_before_end / length)
    energy: Float64 = (at_start + at_end) / 2 * ((pieces.end - pieces.start) / HOUR_MS)
    return energy


def _expected_energy(
    pieces: _Pieces, samples: _Samples, tenures: _Tenures, slots: _Slots, expected: Expected
) -> Float64:
    """Return the expected energy of each piece, Wh: its slot's, in proportion to time within the slot."""
    slot_start, slot_end = slots.borders[pieces.slot], slots.borders[pieces.slot + 1]
    asked = pd.DataFrame(
        {
            "element_id": samples.elements[tenures.element[pieces.tenure]],
            "owner": tenures.owner[pieces.tenure],
            "slot_start": slot_start,
            "slot_end": slot_end,
        }
    )
    whole = np.asarray(expected(asked), dtype=np.float64)
    energy: Float64 = np.maximum(whole, 0.0) * ((pieces.end - pieces.start) / (slot_end - slot_start))
    return energy


def _shares(gap: Int64, weight: Float64, time_share: Float64) -> Float64:
    """Return each piece's share of its gap: by weight, but by time where there is none (NaN, or all zero)."""
    _, gap = np.unique(gap, return_inverse=True)
    known = ~np.isnan(weight)
    weights = np.bincount(gap[known], weights=weight[known], minlength=gap[-1] + 1)[gap]
    times = np.bincount(gap[known], weights=time_share[known], minlength=gap[-1] + 1)[gap]
    weighed = known & (weights > 0)
    return np.divide(times * weight, weights, out=time_share.copy(), where=weighed)


def _distinct(ordered: Int64) -> Int64:
    return ordered[np.flatnonzero(np.diff(ordered, prepend=-1))]


def report_columns(
    slots: pd.DataFrame, *, references: pd.DataFrame | None = None, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the differences and accumulators of report rows.

    Both compare and add up an element with itself **under the same client**: what it gave to an earlier owner
    stays with that owner.

    Parameters
    ----------
    slots : pandas.DataFrame
        Report rows: `element_id`, `client_id` (null: nobody), `time_zone`, `slot_start` (int64 ms UTC),
        `power_gen` (Wh). Without `previous`, all of an element since the start of its local year.
    references : pandas.DataFrame, optional
        Further rows that the differences may refer to; the same columns but `time_zone`.
    previous : pandas.DataFrame, optional
        The last report row before `slots` of each element and client: `element_id`, `client_id`, `time_zone`,
        `slot_start` and `acum_*`; the accumulators go on from it.

    Returns
    -------
    pandas.DataFrame
        `diff_last_*` (NaN where the reference slot has no row) and `acum_*`, Wh, under the index of `slots`.
    """
    return pd.concat([differences(slots, references), accumulators(slots, previous)], axis=1)


def differences(slots: pd.DataFrame, references: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return `diff_last_*`: each row's energy less that of its reference slots; see `report_columns`.

    Where one client has several rows of an element in a slot (it came back within the hour), the reference is
    their sum.
    """
    tables = [table for table in (slots, references) if table is not None and len(table)]
    histories = _histories(tables)
    known = [_energy_table(history, rows) for history, rows in zip(histories, tables, strict=True)]
    energy = slots["power_gen"].to_numpy(np.float64)
    start = slots["slot_start"].to_numpy(np.int64)
    columns = {name: np.full(len(slots), np.nan) for name in DIFFERENCES}
    for zone, rows in _by_zone(slots):
        history = histories[0][rows]
        for name, reference in calendar.reference_slots(zone, start[rows]).items():
            found = known[0](history, reference)
            for table in known[1:]:
                missing = np.isnan(found)
                found[missing] = table(history[missing], reference[missing])
            columns[name][rows] = energy[rows] - found
    return pd.DataFrame(columns, index=slots.index).add_prefix("diff_last_")


def accumulators(slots: pd.DataFrame, previous: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return `acum_*`: each row's energy added to that before it in the local period; see `report_columns`.

    The additions are the same ones in the same order whether a history is computed at once or continued.
    """
    before = slots.iloc[:0] if previous is None else previous
    history, last_history = _histories([slots, before])
    count = max(history.max(initial=-1), last_history.max(initial=-1)) + 1
    sums = np.zeros((len(ACCUMULATORS), count))
    periods = np.full((len(ACCUMULATORS), count), calendar.MISSING)
    if previous is not None:
        sums[:, last_history] = previous[[f"acum_{name}" for name in ACCUMULATORS]].to_numpy(np.float64).T
        periods[:, last_history] = _periods(previous)

    # step n adds the n-th row of every history, so that whole arrays are added up row after row
    order = np.lexsort((slots["slot_start"].to_numpy(np.int64), history))
    step = np.arange(len(order)) - np.searchsorted(history[order], history[order])
    by_step = np.argsort(step, kind="stable")
    order = order[by_step]
    ends = np.flatnonzero(np.diff(step[by_step], append=-1)) + 1
    energy, period, history = (
        slots["power_gen"].to_numpy(np.float64)[order],
        _periods(slots)[:, order],
        history[order],
    )
    added = np.empty((len(ACCUMULATORS), len(order)))
    for first, end in pairwise([0, *ends]):
        now, of = slice(first, end), history[first:end]
        added[:, now] = np.where(period[:, now] == periods[:, of], sums[:, of], 0.0) + energy[now]
        sums[:, of], periods[:, of] = added[:, now], period[:, now]
    columns = np.empty_like(added)
    columns[:, order] = added
    return pd.DataFrame(columns.T, index=slots.index, columns=[f"acum_{name}" for name in ACCUMULATORS])


def _histories(tables: Sequence[pd.DataFrame]) -> list[Int64]:
    """Return the number of the pair of element and client in each row, the same in all tables."""
    pairs = pd.concat([table[["element_id", "client_id"]] for table in tables])
    number = pairs.groupby(["element_id", "client_id"], sort=False, dropna=False, observed=True).ngroup()
    return np.split(number.to_numpy(np.int64), np.cumsum([len(table) for table in tables])[:-1])


def _by_zone(slots: pd.DataFrame) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """Yield each zone with the positions of its rows."""
    zone, zones = pd.factorize(slots["time_zone"].fillna(NOBODYS_ZONE))
    for number, name in enumerate(zones):
        yield str(name), np.flatnonzero(zone == number)


def _periods(slots: pd.DataFrame) -> Int64:
    """Return the numbers of the local periods of each row, one line for each accumulator."""
    start = slots["slot_start"].to_numpy(np.int64)
    periods = np.empty((len(ACCUMULATORS), len(slots)), np.int64)
    for zone, rows in _by_zone(slots):
        numbers = calendar.period_numbers(zone, start[rows])
        periods[:, rows] = [numbers[name] for name in ACCUMULATORS]
    return periods


def _energy_table(history: Int64, rows: pd.DataFrame) -> Callable[[Int64, Int64], Float64]:
    """Return the look-up of the energy of a history in a slot; NaN where there is no row."""
    start = rows["slot_start"].to_numpy(np.int64)
    first, last = (int(start.min()), int(start.max())) if len(start) else (0, -1)
    width = last - first + 1
    keys, row = np.unique(history * width + start - first, return_inverse=True)
    energy = np.bincount(row, weights=rows["power_gen"].to_numpy(np.float64), minlength=len(keys))

    def find(history: Int64, slot_start: Int64) -> Float64:
        key = np.where((slot_start >= first) & (slot_start <= last), history * width + slot_start - first, -1)
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[place] == key, energy[place], np.nan)

    return find
