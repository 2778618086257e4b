"""The registry for the pipeline: what is known of elements, valid at each event time; cached.

>>> registry = Registry(get_settings())  # doctest: +SKIP
>>> registry.lookup("panel", ["P1", "P2"], [1_767_225_600_000, 1_767_225_600_000])  # doctest: +SKIP

A reading thread does all that may wait for Couchbase. A caller waits for it no longer than the timeout, then takes
what the cache has, marked `stale`. While Couchbase is away nobody waits: the thread tries again by itself. Nor does
anybody wait for elements that are asked for again and again: they are read anew before they are too old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
import structlog
from numpy.typing import ArrayLike, NDArray
from prometheus_client import Counter, Gauge
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from couchbase_admin.laid_out import LaidOut, Row
from couchbase_admin.store import settle
from selfgen.clients.couchbase import Documents, Stored, connect
from selfgen.columns import ENRICHMENT
from selfgen.registry import (
    Kind,
    Period,
    Relations,
    Unavailable,
    client_key,
    element_key,
    relations_key,
    stored_relations,
)
from selfgen.settings import Settings

LOOKUPS = Counter("selfgen_registry_lookups", "Elements looked up")
MISSES = Counter("selfgen_registry_misses", "Elements that had to be read from Couchbase")
STALE = Counter("selfgen_registry_stale", "Elements answered without Couchbase, from what was known before")
AWAY = Gauge("selfgen_registry_away", "1 while Couchbase does not answer")

_ENRICHED = tuple(column.name for column in ENRICHMENT)
#: Columns of an answer, besides `known` and `stale`.
COLUMNS = (*_ENRICHED, "power_cap", "tilt", "azimuth")
_FLOATS = {"latitude", "longitude", "power_cap", "tilt", "azimuth"}
_NULLS = tuple(None for _ in COLUMNS)
_ALWAYS = np.iinfo(np.int64).max
_RETRY_S = 0.5
_PART = 334  # elements read at once: a third of a batch of a thousand
_READERS = 3  # while one waits for Couchbase, the others decode
_RENEWED_AFTER = 1 / 2  # of the time to live: elements that are asked for then are read anew, and nobody waits
_RENEWED_AT_ONCE = 100
_PAUSE = 2  # as long as they took: the SDK needs Python for each key, which whoever looks up needs as well
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Answer = tuple[Any, ...]
Content = TypeVar("Content")

_log = structlog.get_logger(__name__)


class _Element(msgspec.Struct, gc=False):
    """What a look-up answers of an element's document; dates as they are written."""

    model: str = ""
    manufacture_date: str | None = None
    install_date: str | None = None
    power_cap: float | None = None
    tilt: float | None = None
    azimuth: float | None = None
    variable_data: dict[str, Any] = {}


class _Client(msgspec.Struct, gc=False):
    """What a look-up answers of a client's document; nothing where that is missing."""

    name: str | None = None
    apell_1: str | None = ""
    apell_2: str | None = ""
    address: str | None = ""
    postal_code: str | None = ""
    client_type: str | None = ""
    latitude: float | None = None
    longitude: float | None = None
    time_zone: str | None = None


class _Entry(msgspec.Struct, gc=False):
    """What is known of one element; None where it is not in the registry.

    `borders` are start and end of each period in epoch milliseconds, then those of one that never comes: its answer
    is the one for times outside of all periods. Answers are made when they are first asked for. There are tens of
    thousands of entries, without cycles: the garbage collector need not look at them.
    """

    read_at: float
    borders: tuple[int, ...]
    element: _Element | None = None
    periods: Sequence[Period] = ()
    clients: Sequence[_Client] = ()
    answers: dict[int, Answer] | None = None
    texts: dict[int, str] | None = None

    def answer(self, position: int) -> Answer:
        """Return the values of `COLUMNS` in the period at a position."""
        if self.element is None:
            return _NULLS
        if self.answers is None:
            self.answers = {}
        found = self.answers.get(position)
        if found is None:
            found = self.answers[position] = (
                _answer(self.element, self.periods[position], self.clients[position])
                if position < len(self.periods)
                else _answer(self.element, None, _NO_CLIENT)
            )
        return found

    def text(self, position: int) -> str:
        """Return the enrichment in the period at a position, as the members of a JSON object."""
        if self.texts is None:
            self.texts = {}
        found = self.texts.get(position)
        if found is None:
            values = dict(zip(_ENRICHED, self.answer(position), strict=False))
            found = self.texts[position] = msgspec.json.encode(values).decode()[1:-1]
        return found

    def row(self) -> Row:
        """Return the entry of at most one period as it is laid out."""
        start, end = self.borders[:2]
        return Row(self.read_at, self.element is not None, start, end, self.answer(0), self.answer(len(self.periods)))

    def variable_data(self, position: int) -> dict[str, Any] | None:
        """Return what is written of the element and of its period at a position; None where nothing was ever read."""
        if self.element is None:
            return None if self.read_at < 0 else {}
        own = self.element.variable_data
        return {**own, **self.periods[position].variable_data} if position < len(self.periods) else own


class Registry:
    """Look-ups for the pipeline.

    Parameters
    ----------
    settings
        Where Couchbase is; how long, and for how many elements, an answer is kept.
    clock
        Monotonic seconds.

    Notes
    -----
    Connects at the first look-up, so that it may be made anywhere and sent to a worker (pickled).
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._entries: dict[Kind, dict[str, _Entry]] = {"panel": {}, "light": {}, "wind": {}}
        self._laid_out = {kind: LaidOut(settings.registry_cache_elements) for kind in self._entries}
        self._ageing: dict[Kind, dict[str, None]] = {kind: {} for kind in self._entries}
        self._renewing = False
        self._closed = threading.Event()
        self._clients: dict[str, tuple[float, _Client]] = {}
        self._documents: Documents | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._away = False
        self._malformed: set[str] = set()  # keys that are logged

    def __reduce__(self) -> tuple[Any, ...]:
        return Registry, (self._settings,)

    def lookup(
        self,
        kind: Kind,
        element_ids: Sequence[str] | NDArray[Any],
        event_times_ms: ArrayLike,
        columns: Sequence[str] = COLUMNS,
    ) -> pd.DataFrame:
        """Return what is known of elements at event times; see also `variable_data`.

        Parameters
        ----------
        kind
            What the elements are.
        element_ids
            Ids, one for each row of the answer; repeated as needed.
        event_times_ms
            Event times, epoch milliseconds, of the same length.
        columns
            Which of `COLUMNS` to answer.

        Returns
        -------
        DataFrame
            These columns, null where there is nothing to say: the client's where nobody has the element
            then. `known`: the element is in the registry. `stale`: Couchbase did not answer in time, and this is
            what was known before (nothing, where `known` is False as well).
        """
        times = np.asarray(event_times_ms, dtype=np.int64)
        if len(element_ids) != len(times):
            raise ValueError(f"{len(element_ids)} element ids, but {len(times)} event times")
        answers, known, read_at = self._laid_out[kind].find(element_ids, times)
        fresh = read_at >= np.where(known, *self._oldest())
        ageing = fresh & (read_at < np.where(known, *self._oldest(_RENEWED_AFTER)))
        self._renew(kind, [element_ids[row] for row in np.flatnonzero(ageing).tolist()])
        stale = np.zeros(len(times), dtype=bool)
        if len(others := np.flatnonzero(~fresh)):
            ids = np.asarray(element_ids, dtype=object)[others]
            answers[others], known[others], stale[others] = self._read_first(kind, ids, times[others])
        found = answers.tolist()
        data: dict[str, NDArray[Any]] = {
            name: np.array(
                list(map(itemgetter(COLUMNS.index(name)), found)), dtype=np.float64 if name in _FLOATS else object
            )
            for name in columns
        }
        LOOKUPS.inc(len(found))
        return pd.DataFrame({**data, "known": known, "stale": stale}, copy=False)

    def texts(self, kind: Kind, element_ids: Sequence[str] | NDArray[Any], event_times_ms: ArrayLike) -> list[str]:
        """Return the columns of `ENRICHMENT` as `lookup` does, of each row as the members of a JSON object.

        They have no braces around them, for those who put them into a message as they are: they are made once for each
        element and period.
        """
        entries, _, codes, positions = self._valid_at(kind, element_ids, event_times_ms)
        LOOKUPS.inc(len(codes))
        return [entries[code].text(position) for code, position in zip(codes.tolist(), positions.tolist(), strict=True)]

    def variable_data(
        self, kind: Kind, element_ids: Sequence[str] | NDArray[Any], event_times_ms: ArrayLike
    ) -> list[dict[str, Any] | None]:
        """Return elements' `variable_data` at event times, that of the period over the element's own.

        Empty for an element that is not in the registry; None where Couchbase did not answer in time and nothing was
        known before.
        """
        entries, _, codes, positions = self._valid_at(kind, element_ids, event_times_ms)
        return [
            entries[code].variable_data(position)
            for code, position in zip(codes.tolist(), positions.tolist(), strict=True)
        ]

    def history(self, kind: Kind, element_ids: Iterable[str]) -> pd.DataFrame:
        """Return every period of elements, with what is known in each.

        Returns
        -------
        DataFrame
            One row for each element and period, in order of time: element_id, `init` and `end` (UTC, NaT where
            open), the columns of `COLUMNS`, and `variable_data` (the element's, then the relation's over it). An
            element that nobody ever had gives no row.

        Raises
        ------
        Unavailable
            Where Couchbase does not answer in time and an element is not in the cache: a batch job must not
            take that for an unknown element.
        """
        ids = list(dict.fromkeys(element_ids))
        entries, stale = self._current(kind, ids, patient=True)
        for element_id, entry, is_stale in zip(ids, entries, stale, strict=True):
            if is_stale and entry.read_at < 0:
                raise Unavailable(f"Couchbase did not answer in time for {kind} {element_id}.")
        rows = [
            (
                element_id,
                *entry.borders[2 * position : 2 * position + 2],
                *entry.answer(position),
                entry.variable_data(position),
            )
            for element_id, entry in zip(ids, entries, strict=True)
            if entry.element is not None
            for position in range(len(entry.periods))
        ]
        frame = pd.DataFrame(rows, columns=["element_id", "init", "end", *COLUMNS, "variable_data"])
        open_ended = frame["end"] == _ALWAYS
        for name in ("init", "end"):
            instants = frame[name].to_numpy(dtype=np.int64).view("datetime64[ms]")
            frame[name] = pd.Series(instants, index=frame.index).dt.tz_localize("UTC")
        frame.loc[open_ended, "end"] = pd.NaT
        return frame.astype({name: np.float64 for name in _FLOATS})

    def await_answer(self, patience_s: float) -> bool:
        """Wait until Couchbase answers, for so long at most, and tell whether it does.

        For a worker that begins: it knows nothing yet, and the backlog comes first. Not for several threads.
        """
        again = Retrying(
            retry=retry_if_exception_type(Unavailable), wait=wait_fixed(_RETRY_S), stop=stop_after_delay(patience_s)
        )
        try:
            again(lambda: self._connected().get("ping"))
        except RetryError:
            return False
        return True

    def close(self) -> None:
        """Stop the reading thread."""
        self._closed.set()
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
            self._reader = None

    # the cache

    def _oldest(self, share: float = 1.0) -> tuple[float, float]:
        """Return since when an answer must have been read, of an element that is known and of one that is not.

        `share`: for its age to be less than this share of the time to live.
        """
        now = self._clock()
        return now - share * self._settings.registry_ttl_s, now - share * self._settings.registry_unknown_ttl_s

    def _read_first(
        self, kind: Kind, element_ids: NDArray[Any], times: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the answer of each row that is not laid out, and whether it is known and stale; lay it out."""
        entries, stale, codes, positions = self._valid_at(kind, element_ids, times)
        found = (
            entries[code].answer(position) for code, position in zip(codes.tolist(), positions.tolist(), strict=True)
        )
        answers = np.fromiter(found, dtype=object, count=len(codes))
        known = np.fromiter((entry.element is not None for entry in entries), dtype=bool, count=len(entries))
        unique = dict(zip(codes.tolist(), element_ids.tolist(), strict=True))
        plain = (code for code, entry in enumerate(entries) if len(entry.periods) <= 1 and not stale[code])
        self._laid_out[kind].put({unique[code]: entries[code].row() for code in plain})
        return answers, known[codes], stale[codes]

    def _valid_at(
        self, kind: Kind, element_ids: Sequence[str] | NDArray[Any], event_times_ms: ArrayLike
    ) -> tuple[list[_Entry], NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
        """Return an entry for each distinct id, whether it is stale, and of each row its entry and its period."""
        times = np.asarray(event_times_ms, dtype=np.int64)
        codes, unique = pd.factorize(np.asarray(element_ids, dtype=object))
        if len(codes) != len(times):
            raise ValueError(f"{len(codes)} element ids, but {len(times)} event times")
        entries, stale = self._current(kind, unique.tolist())
        return entries, stale, codes, _positions_valid_at(entries, codes, times)

    def _current(
        self, kind: Kind, ids: Sequence[str], *, patient: bool = False
    ) -> tuple[list[_Entry], NDArray[np.bool_]]:
        """Return an entry for each id, read again where it is too old, and whether that could not be done.

        The timeout is for all of them; `patient`: for each part, so that any number is read while there is progress.
        """
        cache = self._entries[kind]
        with self._lock:
            entries = [cache.get(one, _NEVER) for one in ids]
        oldest, soon = self._oldest(), self._oldest(_RENEWED_AFTER)
        old = [position for position, entry in enumerate(entries) if entry.read_at < oldest[entry.element is None]]
        self._renew(
            kind,
            [
                one
                for one, entry in zip(ids, entries, strict=True)
                if oldest[entry.element is None] <= entry.read_at < soon[entry.element is None]
            ],
        )
        stale = np.zeros(len(entries), dtype=bool)
        if old:
            MISSES.inc(len(old))
            started = self._clock()
            self._refresh(kind, [ids[position] for position in old], patient=patient)
            for position in old:
                entry = entries[position] = cache.get(ids[position], entries[position])
                stale[position] = entry.read_at < started
            STALE.inc(int(stale.sum()))
            self._bound(cache)
        return entries, stale

    def _refresh(self, kind: Kind, ids: Sequence[str], *, patient: bool) -> None:
        """Have elements read, in parts side by side, and wait for them no longer than the timeout."""
        with self._lock:
            if self._away:
                return
            reader = self._readers()
            parts = [reader.submit(self._read, kind, ids[first : first + _PART]) for first in range(0, len(ids), _PART)]
        deadline = time.monotonic() + self._settings.couchbase_timeout_s
        try:
            for part in parts:
                part.result(self._settings.couchbase_timeout_s if patient else max(deadline - time.monotonic(), 0.0))
        except (FutureTimeout, Unavailable):
            for part in parts:
                part.cancel()
            self._lose()

    def _renew(self, kind: Kind, ids: Sequence[str]) -> None:
        """Have elements read that are still as they should be, and do not wait for it."""
        if not ids:
            return
        with self._lock:
            if self._away:
                return
            self._ageing[kind].update(dict.fromkeys(ids))
            if not self._renewing:
                self._renewing = True
                self._readers().submit(self._renew_all)

    def _renew_all(self) -> None:
        try:
            took_s = 0.0
            while not self._closed.wait(_PAUSE * took_s) and (part := self._next_ageing()):
                kind, ids = part
                began = time.monotonic()
                entries = self._read(kind, ids)
                laid_out = self._laid_out[kind]
                laid_out.put(
                    {one: entry.row() for one, entry in entries.items() if one in laid_out and len(entry.periods) <= 1}
                )
                with self._lock:  # not before: it would be asked for once more
                    for one in ids:
                        self._ageing[kind].pop(one, None)
                took_s = time.monotonic() - began
        except Unavailable:
            self._lose()
        finally:
            with self._lock:
                self._renewing = False
                for ageing in self._ageing.values():
                    ageing.clear()

    def _next_ageing(self) -> tuple[Kind, list[str]] | None:
        with self._lock:
            parts = ((kind, list(islice(ageing, _RENEWED_AT_ONCE))) for kind, ageing in self._ageing.items() if ageing)
            return next(parts, None)

    def _readers(self) -> ThreadPoolExecutor:
        if self._reader is None:
            self._reader = ThreadPoolExecutor(_READERS, thread_name_prefix="registry")
        return self._reader

    def _lose(self) -> None:
        """Have nobody wait for Couchbase until it answers again."""
        with self._lock:
            if not self._away and self._reader is not None:
                self._away = True
                AWAY.set(1)
                self._reader.submit(self._come_back)

    def _come_back(self) -> None:
        while self._reader is not None:
            try:
                self._connected().get("ping")
            except Unavailable:
                time.sleep(_RETRY_S)
            else:
                break
        AWAY.set(0)
        self._away = False

    def _connected(self) -> Documents:
        if self._documents is None:
            self._documents = Documents(connect(self._settings))
        return self._documents

    def _bound(self, cache: dict[str, Any]) -> None:
        # dictionaries keep the order of insertion, and what is read again is inserted anew: the first is the oldest
        surplus = len(cache) - self._settings.registry_cache_elements
        for one in list(cache)[: max(surplus, 0)]:
            cache.pop(one, None)

    # reading

    def _read(self, kind: Kind, ids: Sequence[str]) -> dict[str, _Entry]:
        documents = self._connected()
        read_at = self._clock()
        element_keys = [element_key(kind, one) for one in ids]
        relations_keys = [relations_key(kind, one) for one in ids]
        found = documents.get_many([*element_keys, *relations_keys])

        def decoded(key: str, stored: Stored) -> Relations | None:
            return self._readable(key, stored, partial(stored_relations, kind))

        written = {
            one: each
            for one, key in zip(ids, relations_keys, strict=True)
            if key in found and (each := decoded(key, found[key])) is not None
        }
        relations = settle(documents, kind, written, decoded)
        clients = self._clients_of(documents, relations.values())
        entries = {}
        for one, key in zip(ids, element_keys, strict=True):
            element = (self._readable(key, found[key], _ELEMENT.decode) or _Element()) if key in found else None
            entries[one] = _entry(read_at, element, relations.get(one), clients)
        with self._lock:
            for one in entries:
                self._entries[kind].pop(one, None)
            self._entries[kind].update(entries)
        return entries

    def _readable(self, key: str, stored: Stored, decode: Callable[[bytes], Content]) -> Content | None:
        """Return a document, or None where it is malformed: that must not keep the others from being read."""
        try:
            return decode(stored.content)
        except ValueError as error:  # msgspec's errors, and UnicodeDecodeError
            if key not in self._malformed:
                self._malformed.add(key)
                _log.warning("registry document is not readable, nothing is known of it", key=key, error=str(error))
            return None

    def _clients_of(self, documents: Documents, relations: Iterable[Relations]) -> dict[str, _Client]:
        """Return the clients of relations; one that was read lately serves several elements.

        "Lately" is a third of the time to live, so that together they stay well below a minute.
        """
        wanted = {period.client_id for each in relations for period in each.periods}
        oldest = self._clock() - self._settings.registry_ttl_s / 3
        clients = {one: held[1] for one in wanted if (held := self._clients.get(one)) and held[0] >= oldest}
        missing = wanted - clients.keys()
        read_at = self._clock()
        found = documents.get_many(client_key(one) for one in missing)
        for one in missing:
            key = client_key(one)
            clients[one] = (self._readable(key, found[key], _CLIENT.decode) if key in found else None) or _NO_CLIENT
            self._clients.pop(one, None)
            self._clients[one] = (read_at, clients[one])
        self._bound(self._clients)
        return clients


_NEVER = _Entry(-1.0, (_ALWAYS, _ALWAYS))
_NO_CLIENT = _Client(None, None, None, None, None, None)
_CLIENT = msgspec.json.Decoder(_Client)
_ELEMENT = msgspec.json.Decoder(_Element)


def _positions_valid_at(
    entries: Sequence[_Entry], codes: NDArray[np.intp], times: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Return, for each code and time, the position of the valid period in its entry."""
    counts = np.fromiter((len(entry.borders) // 2 for entry in entries), dtype=np.intp, count=len(entries))
    laid_out = chain.from_iterable(entry.borders for entry in entries)
    borders = np.fromiter(laid_out, dtype=np.int64, count=2 * int(counts.sum())).reshape(-1, 2)
    starts, ends = borders[:, 0], borders[:, 1]
    following_entry = np.cumsum(counts)
    first = (following_entry - counts)[codes]
    outside = (following_entry - 1)[codes]
    rows: NDArray[np.intp] = first
    # step to the next period while it has begun: most elements have one, few have many
    while True:
        following = np.minimum(rows + 1, outside)
        begun = (following < outside) & (starts[following] <= times)
        if not begun.any():
            break
        rows = np.where(begun, following, rows)
    valid = (rows < outside) & (starts[rows] <= times) & (times < ends[rows])
    positions: NDArray[np.intp] = np.where(valid, rows, outside) - first
    return positions


def _entry(
    read_at: float, element: _Element | None, relations: Relations | None, clients: Mapping[str, _Client]
) -> _Entry:
    if element is None:
        return _Entry(read_at, (_ALWAYS, _ALWAYS))
    periods = () if relations is None else tuple(relations.periods)
    borders: list[int] = []
    for period in periods:
        borders += (_epoch_ms(period.init_date), _ALWAYS if period.end_date is None else _epoch_ms(period.end_date))
    return _Entry(
        read_at,
        (*borders, _ALWAYS, _ALWAYS),
        element,
        periods,
        tuple([clients[period.client_id] for period in periods]),
    )


def _answer(element: _Element, period: Period | None, client: _Client) -> Answer:
    """Return the values of `COLUMNS`, in that order: the relation's own site goes before the client's."""
    client_id, address, postal_code, latitude, longitude = None, None, None, None, None
    if period is not None:
        client_id = period.client_id
        address = client.address if period.address is None else period.address
        postal_code = client.postal_code if period.postal_code is None else period.postal_code
        latitude = client.latitude if period.latitude is None else period.latitude
        longitude = client.longitude if period.longitude is None else period.longitude
    return (
        client_id,
        client.name,
        client.apell_1,
        client.apell_2,
        address,
        postal_code,
        client.client_type,
        element.model,
        element.manufacture_date,
        element.install_date,
        latitude,
        longitude,
        client.time_zone,
        element.power_cap,
        element.tilt,
        element.azimuth,
    )


def _epoch_ms(value: datetime) -> int:
    return (value - _EPOCH) // _MILLISECOND
