"""The registry's documents: clients, elements, and who has which element since when.

Field names are the stores' own (requirement, "Modelo de datos - Enriquecimiento"). Documents are JSON; dates
and instants are RFC 3339, instants in UTC. Keys: `client::ID`, `panel::ID`, `sensor_light::ID`,
`sensor_wind::ID`, `model::KIND::NAME`, and `clients_rel::KIND::ID`, which holds all periods of one element:
every change of who has it is the replacement of one document.

>>> from datetime import UTC, datetime
>>> since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
>>> had = opened(Relations(kind="panel", element_id="P1"), Period(client_id="C1", init_date=since))
>>> [period.client_id for period in moved(had, "C2", until).periods]
['C1', 'C2']
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import zip_longest
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from selfgen import horizon
from selfgen.thresholds import Thresholds, WindThresholds

Kind = Literal["panel", "light", "wind"]
KINDS: tuple[Kind, ...] = ("panel", "light", "wind")

Id = Annotated[str, Meta(min_length=1, description="1 to 128 bytes of UTF-8 without control characters")]
Text = Annotated[str, Meta(max_length=200)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Tilt = Annotated[float, Meta(ge=0, le=90)]
Azimuth = Annotated[float, Meta(ge=0, lt=360)]
Instant = Annotated[datetime, Meta(tz=True)]

MAX_ID_BYTES = 128
MAX_MODEL_BYTES = 200
MAX_VARIABLE_DATA_BYTES = 16 * 1024

#: document family in Couchbase, and the element's id field, by kind
DOCUMENT: dict[Kind, str] = {"panel": "panel", "light": "sensor_light", "wind": "sensor_wind"}
ID_FIELD: dict[Kind, str] = {"panel": "panel_id", "light": "light_id", "wind": "wind_id"}


class RegistryError(Exception):
    """A sentence that says what was wrong, with what, and what to do."""


class Refused(RegistryError):
    """What was asked for cannot be: nothing was changed. `field` is what is wrong, where it is one field."""

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


class Conflict(RegistryError):
    """Somebody else changed the same thing first: nothing was changed."""


class Unavailable(RegistryError):
    """Couchbase does not answer."""


class Client(Struct, kw_only=True, omit_defaults=True):
    """A client (company or person) and the site it is known by; without a time zone, its place gives it."""

    client_id: Id
    name: Text
    apell_1: Text = ""
    apell_2: Text = ""
    address: Text = ""
    postal_code: Text = ""
    client_signature: Text = ""
    client_type: Text = ""
    open_date: date | None = None
    end_date: Instant | None = None
    latitude: Latitude
    longitude: Longitude
    time_zone: Text = ""


class Element(Struct, kw_only=True, omit_defaults=True):
    """What every element has."""

    model: Text = ""
    manufacture_date: date | None = None
    install_date: date | None = None
    live_cicle: NotNegative | None = None  # years
    variable_data: dict[str, Any] = field(default_factory=dict)
    end_date: Instant | None = None


class Panel(Element, kw_only=True, omit_defaults=True):
    """A solar panel (or string): `power_cap` in W peak, `tilt` and `azimuth` in degrees."""

    panel_id: Id
    power_cap: Positive
    panel_price: NotNegative | None = None
    panel_sold: NotNegative | None = None
    tilt: Tilt | None = None
    azimuth: Azimuth | None = None


class LightSensor(Element, kw_only=True, omit_defaults=True):
    """A pyranometer; `power_cap` in W peak is that of the panel that could stand there."""

    light_id: Id
    power_cap: Positive
    sensor_price: NotNegative | None = None


class WindSensor(Element, kw_only=True, omit_defaults=True):
    """An anemometer."""

    wind_id: Id
    sensor_price: NotNegative | None = None


AnyElement = Panel | LightSensor | WindSensor
ELEMENT_TYPES: dict[Kind, type[Panel] | type[LightSensor] | type[WindSensor]] = {
    "panel": Panel,
    "light": LightSensor,
    "wind": WindSensor,
}


class Model(Struct, kw_only=True, omit_defaults=True):
    """What the elements of one model have in common; an element's own fields take precedence."""

    kind: Kind
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    power_cap: Positive | None = None
    live_cicle: NotNegative | None = None
    panel_price: NotNegative | None = None
    panel_sold: NotNegative | None = None
    sensor_price: NotNegative | None = None
    tilt: Tilt | None = None
    azimuth: Azimuth | None = None
    variable_data: dict[str, Any] = field(default_factory=dict)


class Period(Struct, kw_only=True, omit_defaults=True, gc=False):
    """*Client has element* over the half-open `[init_date, end_date)`; an open end is None.

    The site fields, where given, take precedence over the client's.
    """

    client_id: Id
    init_date: Instant
    end_date: Instant | None = None
    address: Text | None = None
    postal_code: Text | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    variable_data: dict[str, Any] = field(default_factory=dict)


class Relations(Struct, kw_only=True, omit_defaults=True):
    """All periods of one element, in order of time, never overlapping; the document `clients_rel::KIND::ID`.

    `retired` is the instant the element went out of service; `replaced_by` the element that took its place
    then, whose own document names this one in `replaces`.
    """

    kind: Kind
    element_id: Id
    periods: list[Period] = field(default_factory=list)
    retired: Instant | None = None
    replaced_by: Id | None = None
    replaces: Id | None = None


# The requirement names the ends of a period by kind; the stored documents do as well.


class _PanelPeriod(Period, kw_only=True, omit_defaults=True, gc=False):
    init_date: Instant = field(name="init_panel_date")
    end_date: Instant | None = field(default=None, name="end_panel_date")


class _LightPeriod(Period, kw_only=True, omit_defaults=True, gc=False):
    init_date: Instant = field(name="init_sensor_date")
    end_date: Instant | None = field(default=None, name="end_sensor_date")


class _WindPeriod(Period, kw_only=True, omit_defaults=True, gc=False):
    init_date: Instant = field(name="init_wind_date")
    end_date: Instant | None = field(default=None, name="end_wind_date")


class _PanelRelations(Relations, kw_only=True, omit_defaults=True, gc=False):
    element_id: Id = field(name="panel_id")
    periods: list[_PanelPeriod] = field(default_factory=list)  # type: ignore[assignment]


class _LightRelations(Relations, kw_only=True, omit_defaults=True, gc=False):
    element_id: Id = field(name="light_id")
    periods: list[_LightPeriod] = field(default_factory=list)  # type: ignore[assignment]


class _WindRelations(Relations, kw_only=True, omit_defaults=True, gc=False):
    element_id: Id = field(name="wind_id")
    periods: list[_WindPeriod] = field(default_factory=list)  # type: ignore[assignment]


_RELATIONS: dict[Kind, type[Relations]] = {
    "panel": _PanelRelations,
    "light": _LightRelations,
    "wind": _WindRelations,
}
_PERIOD: dict[Kind, type[Period]] = {"panel": _PanelPeriod, "light": _LightPeriod, "wind": _WindPeriod}
_RELATIONS_DECODER = {kind: msgspec.json.Decoder(stored) for kind, stored in _RELATIONS.items()}
_ENCODER = msgspec.json.Encoder(order="deterministic")

Document = Client | Panel | LightSensor | WindSensor | Model | Relations
AnyDocument = TypeVar("AnyDocument", bound=Client | Panel | LightSensor | WindSensor | Model | Relations)


def client_key(client_id: str) -> str:
    """Return the key of a client's document."""
    return f"client::{client_id}"


def element_key(kind: Kind, element_id: str) -> str:
    """Return the key of an element's document."""
    return f"{DOCUMENT[kind]}::{element_id}"


def model_key(kind: Kind, model: str) -> str:
    """Return the key of a model's document."""
    return f"model::{kind}::{model}"


def relations_key(kind: Kind, element_id: str) -> str:
    """Return the key of the document that holds all periods of an element."""
    return f"clients_rel::{kind}::{element_id}"


def key_of(document: Document) -> str:
    """Return the key of any of the registry's documents."""
    if isinstance(document, Client):
        return client_key(document.client_id)
    if isinstance(document, Model):
        return model_key(document.kind, document.model)
    if isinstance(document, Relations):
        return relations_key(document.kind, document.element_id)
    return element_key(kind_of(document), id_of(document))


def kind_named(text: str) -> Kind:
    """Return a kind from what people type."""
    for kind in KINDS:
        if text == kind:
            return kind
    raise Refused(f"{text} is not a kind of element: give panel, light or wind.")


def kind_of(element: AnyElement) -> Kind:
    """Return an element's kind."""
    if isinstance(element, Panel):
        return "panel"
    return "light" if isinstance(element, LightSensor) else "wind"


def id_of(element: AnyElement) -> str:
    """Return an element's id."""
    return str(getattr(element, ID_FIELD[kind_of(element)]))


def encoded(document: Document) -> bytes:
    """Return a document as it is stored: JSON, the requirement's field names."""
    if isinstance(document, Relations):
        period_type = _PERIOD[document.kind]
        periods = [period_type(**_fields(period)) for period in document.periods]
        document = _RELATIONS[document.kind](**{**_fields(document), "periods": periods})
    return _ENCODER.encode(document)


def stored_relations(kind: Kind, content: bytes) -> Relations:
    """Return the relations of an element as they are stored: to read, quickly; not to compare or to change."""
    return _RELATIONS_DECODER[kind].decode(content)


def decoded_relations(kind: Kind, content: bytes) -> Relations:
    """Return the relations of an element from their stored form."""
    stored = stored_relations(kind, content)
    periods = [Period(**_fields(period)) for period in stored.periods]
    return Relations(**{**_fields(stored), "periods": periods})


def _fields(struct: Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


# ---------------------------------------------------------------- what a document must be

_EXPECTED = {
    "power_cap": "the rating in W peak, a number greater than 0",
    "panel_price": "a price, 0 or more",
    "panel_sold": "a price, 0 or more",
    "sensor_price": "a price, 0 or more",
    "live_cicle": "a life cycle in years, 0 or more",
    "tilt": "degrees from horizontal, 0 to 90",
    "azimuth": "degrees clockwise from north, from 0 to below 360 (180 is south)",
    "latitude": "degrees north, -90 to 90",
    "longitude": "degrees east, -180 to 180",
    "variable_data": f"a JSON object of at most {MAX_VARIABLE_DATA_BYTES // 1024} KiB",
    "open_date": "a date such as 2026-05-31",
    "manufacture_date": "a date such as 2026-05-31",
    "install_date": "a date such as 2026-05-31",
    "end_date": "an instant with its offset such as 2026-05-31T12:00:00+02:00",
    "init_date": "an instant with its offset such as 2026-05-31T12:00:00+02:00",
    "time_zone": "an IANA time zone such as Europe/Madrid",
}
_ID_FIELDS = {"client_id", "element_id", *ID_FIELD.values()}
_WELL_FORMED = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile(r"\s*[+-]?[\d.eE]+\s*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_AT = re.compile(r" - at `\$.*?(\w+)`")


class Problem(NamedTuple):
    """What is wrong with one field."""

    field: str
    sentence: str


def checked_id(name: str, value: str) -> str:
    """Return an id as it is, or raise `Refused` where a key could not hold it."""
    for problem in id_problems(name, value):
        raise Refused(problem.sentence)
    return value


def checked(document: AnyDocument, now: datetime) -> AnyDocument:
    """Return a document in its stored form (instants in UTC, whole milliseconds), or raise `Refused`."""
    found = problems(document, now)
    if found:
        raise Refused(" ".join(problem.sentence for problem in found))
    return normalised(document)


def normalised(document: AnyDocument) -> AnyDocument:
    """Return a document with its instants in UTC and whole milliseconds."""
    changes: dict[str, Any] = {
        name: instant(value) for name, value in _fields(document).items() if isinstance(value, datetime)
    }
    if isinstance(document, Relations):
        changes["periods"] = [
            replace(
                period,
                init_date=instant(period.init_date),
                end_date=None if period.end_date is None else instant(period.end_date),
            )
            for period in document.periods
        ]
    return replace(document, **changes) if changes else document


def instant(value: datetime) -> datetime:
    """Return an instant in UTC, cut to whole milliseconds."""
    if value.tzinfo is None:
        raise Refused(f"{value} has no offset: give {_EXPECTED['init_date']}.")
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise Refused(f"{value} is beyond the calendar: give {_EXPECTED['init_date']}.") from None
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def problems(document: Document, now: datetime) -> list[Problem]:
    """Return what is wrong with a document by itself: types, limits, ids, dates; empty where nothing is."""
    found = list(_value_problems(document)) or list(_type_problems(document))
    if found:
        return found
    if isinstance(document, Client):
        found += _client_problems(document, now)
    elif isinstance(document, Panel | LightSensor | WindSensor):
        found += [*_element_problems(document, now), *_alarm_problems(kind_of(document), document.variable_data)]
    elif isinstance(document, Model):
        found += [*_model_problems(document), *_alarm_problems(document.kind, document.variable_data)]
    elif isinstance(document, Relations):
        for period in document.periods:
            found += _alarm_problems(document.kind, period.variable_data)
    return found


def _value_problems(document: Struct) -> Iterator[Problem]:
    for name, value in _fields(document).items():
        if name in _ID_FIELDS and isinstance(value, str):
            yield from id_problems(name, value)
        elif isinstance(value, str) and (problem := _text_problem(name, value)):
            yield problem
        elif isinstance(value, float) and not math.isfinite(value):
            yield _unexpected(name, value)
        elif name == "variable_data" and (problem := _variable_data_problem(value)):
            yield problem
        elif isinstance(value, list):
            for member in value:
                yield from list(_value_problems(member)) or _type_problems(member)


def _type_problems(document: Struct) -> Iterator[Problem]:
    try:
        msgspec.convert(_builtin(document), type(document))
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        name = at.group(1) if at else ""
        yield _unexpected(name, getattr(document, name, "")) if at else Problem("", f"{error}.")


def _builtin(document: Struct) -> Any:
    return msgspec.to_builtins(document, builtin_types=(datetime, date))


def _unexpected(name: str, value: object) -> Problem:
    limit = f"an id of 1 to {MAX_ID_BYTES} bytes" if name in _ID_FIELDS else "text of at most 200 characters"
    return Problem(name, f"{name} is {_shortened(value)}: give {_EXPECTED.get(name, limit)}.")


def _shortened(value: object) -> str:
    try:
        text = str(value)
    except RecursionError:
        return "too deeply nested"
    return f"{text[:40]}…" if len(text) > 40 else text or "empty"


def id_problems(name: str, value: str) -> Iterator[Problem]:
    """Yield what is wrong with an id, under the name of its field."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        yield Problem(name, f"{name} {value!r} is not valid Unicode: give an id without surrogates.")
        return
    if not 1 <= size <= MAX_ID_BYTES:
        yield Problem(name, f"{name} has {size} bytes of UTF-8: give an id of 1 to {MAX_ID_BYTES}.")
    if _CONTROL.search(value):
        yield Problem(name, f"{name} {value!r} has a control character, which a key cannot hold: remove it.")
    if value != value.strip():
        yield Problem(name, f"{name} {value!r} begins or ends with a space: remove it.")


def _text_problem(name: str, value: str) -> Problem | None:
    if _SURROGATE.search(value):
        return Problem(name, f"{name} {value!r} is not UTF-8: save the file as UTF-8.")
    if _CONTROL.search(value):
        return Problem(name, f"{name} {value!r} has a control character: remove it.")
    return None


def _alarm_problems(kind: Kind, variable_data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the thresholds of an element's own alarms."""
    try:
        (WindThresholds if kind == "wind" else Thresholds).of(variable_data)
    except ValueError as error:
        yield Problem("variable_data", f"variable_data has alarms that {kind} has not so: {error}.")


def _variable_data_problem(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return _unexpected("variable_data", value)
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        return _unexpected("variable_data", value)
    if size > MAX_VARIABLE_DATA_BYTES:
        return Problem("variable_data", f"variable_data has {size} bytes: give {_EXPECTED['variable_data']}.")
    if horizon.NAME in value:
        try:
            horizon.checked(value[horizon.NAME])
        except ValueError as error:
            return Problem("variable_data", f"{error}.")
    return None


def _client_problems(client: Client, now: datetime) -> Iterator[Problem]:
    if not client.name.strip():
        yield Problem("name", "name is empty: give the name of the person or company.")
    if client.time_zone and not is_zone(client.time_zone):
        yield _unexpected("time_zone", client.time_zone)
    yield from _future("open_date", client.open_date, now)
    if client.end_date and client.open_date and local_date(client.end_date, client.time_zone) < client.open_date:
        yield Problem("end_date", f"end_date is before open_date {client.open_date}: give a later one.")


def _model_problems(model: Model) -> Iterator[Problem]:
    if not names_model(model.model):
        yield Problem(
            "model", f"model {_shortened(model.model)} has too long a name: give one of {MAX_MODEL_BYTES} bytes."
        )


def names_model(name: str) -> bool:
    """Tell whether a text may be a model's name: a key must hold it."""
    return len(name.encode("utf-8", "surrogateescape")) <= MAX_MODEL_BYTES and not _text_problem("model", name)


def _element_problems(element: AnyElement, now: datetime) -> Iterator[Problem]:
    yield from _future("manufacture_date", element.manufacture_date, now)
    yield from _future("install_date", element.install_date, now)
    yield from _future("end_date", element.end_date, now)
    made = element.manufacture_date
    if made and element.install_date and element.install_date < made:
        yield Problem(
            "install_date",
            f"install_date {element.install_date} is before manufacture_date {made}: correct one.",
        )
    if element.end_date and made and element.end_date.date() < made:
        yield Problem("end_date", f"end_date is before manufacture_date {made}: correct one.")


def _future(name: str, value: date | datetime | None, now: datetime) -> Iterator[Problem]:
    # a date without its place may be tomorrow's already, east of here
    latest = now if isinstance(value, datetime) else now.date() + timedelta(days=1)
    if value is not None and value > latest:
        yield Problem(name, f"{name} {value} is in the future: give the day it happened.")


def from_texts(struct_type: type[Struct], texts: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a document's fields from what people typed, or a file holds, and what is wrong with them.

    Postal codes and ids stay as they are written; numbers, dates and JSON become what they say.
    """
    values: dict[str, Any] = {}
    found: list[Problem] = []
    types = _types_of(struct_type)
    for name, text in texts.items():
        if name not in types:
            found.append(Problem(name, f"there is no field {name}: the fields are {', '.join(types)}."))
            continue
        if _is_digits(text) and types[name] in (Instant, Instant | None):  # not so many seconds since 1970
            found.append(_unexpected(name, text))
            continue
        try:
            value = msgspec.json.decode(text) if name == "variable_data" and isinstance(text, str) else text
            values[name] = msgspec.convert(value, types[name], strict=False)
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
            found.append(_unexpected(name, text))
    return values, found


def _is_digits(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and _DIGITS.fullmatch(value) is not None)


@cache
def _types_of(struct_type: type[Struct]) -> dict[str, Any]:
    return get_type_hints(struct_type, include_extras=True)


def with_model(kind: Kind, fields: Mapping[str, Any], model: Model | None) -> AnyElement:
    """Return an element from its fields, the missing ones taken from its model.

    Raises
    ------
    Refused
        Where a required field is neither given nor known by the model, or has the wrong type.
    """
    element_type = ELEMENT_TYPES[kind]
    common: dict[str, Any] = {}
    if model is not None:
        common = {
            name: value
            for name, value in _fields(model).items()
            if name in element_type.__struct_fields__ and value is not None
        }
    given = {name: value for name, value in fields.items() if value is not None}
    merged = {**common, **given}
    if "variable_data" in common or "variable_data" in given:
        merged["variable_data"] = {**common.get("variable_data", {}), **given.get("variable_data", {})}
    try:
        return msgspec.convert(merged, element_type)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        if at:
            raise Refused(_unexpected(at.group(1), merged.get(at.group(1))).sentence, at.group(1)) from None
        missing = str(error).partition("`")[2].rstrip("`")
        sentence = f"{missing} is missing: give it, or a model that has it."
        if model is None and "model" in given:
            unknown = f"{kind} model {given['model']} is not in the catalogue"
            sentence = f"{missing} is missing, and {unknown}: give one of them."
        raise Refused(sentence, missing) from None


def moment(text: str, time_zone: str | None = None) -> datetime:
    """Return an instant from what people type: `now`, a date, or a date and time, with or without an offset.

    Without an offset it is the clock of the time zone given, or of this machine.
    """
    if text == "now":
        return instant(datetime.now(UTC))
    zone = ZoneInfo(time_zone) if time_zone else None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{text} is not a time: give now, 2026-05-31, 2026-05-31T12:00, or with an offset 2026-05-31T12:00+02:00."
        ) from None
    if value.tzinfo is not None:
        return instant(value)
    if not _WELL_FORMED.fullmatch(text):
        raise Refused(f"{text} is not a time: give a date such as 2026-05-31, or 2026-05-31T12:00.")
    try:
        at = value.replace(tzinfo=zone).astimezone(UTC)  # without a zone by this machine's clock of then
        again = at.astimezone(zone).replace(tzinfo=None)
    except OverflowError:
        raise Refused(f"{text} is beyond the calendar: give a time such as 2026-05-31T12:00.") from None
    if again != value:
        place = f"in {time_zone}" if time_zone else "here"
        raise Refused(f"{text} does not exist {place}: the clock is put forward then. Give another time.")
    return instant(at)


def is_zone(name: object) -> bool:
    """Tell whether a value names a time zone that is known here.

    >>> is_zone("Asia/Kathmandu"), is_zone("Mars/Base"), is_zone(""), is_zone(None)
    (True, False, False, False)
    """
    try:
        ZoneInfo(name)  # type: ignore[arg-type]
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        return False
    return True


def local_date(at: datetime, time_zone: str | None) -> date:
    """Return an instant's day by the clock of a time zone, or of this machine."""
    return at.astimezone(ZoneInfo(time_zone) if time_zone else None).date()


# ---------------------------------------------------------------- who has it since when


def described(relations: Relations, period: Period) -> str:
    """Return in words who has an element since when."""
    until = f" until {shown(period.end_date)}" if period.end_date else ""
    since = shown(period.init_date)
    return f"client {period.client_id} has {relations.kind} {relations.element_id} since {since}{until}"


def shown(value: datetime) -> str:
    """Return an instant as people read it."""
    return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds").replace("+00:00", "Z")


def valid_at(periods: Sequence[Period], at: datetime) -> Period | None:
    """Return the period that holds at an instant."""
    for period in periods:
        if period.init_date <= at and (period.end_date is None or at < period.end_date):
            return period
    return None


def opened(relations: Relations, period: Period) -> Relations:
    """Return the relations with one more period; the same object where it is there already."""
    _check_order(period)
    if period in relations.periods:
        return relations
    _check_not_retired(relations, period.end_date or None, period.init_date)
    for other in relations.periods:
        if _overlap(other, period):
            raise Refused(f"{described(relations, other)}: end that first, or move it (selfgen install move).")
    return replace(relations, periods=_in_order([*relations.periods, period]))


def moved(relations: Relations, client_id: str, since: datetime, site: Mapping[str, Any] | None = None) -> Relations:
    """Return the relations with the element given to another client: one period closed, the next opened.

    `site` holds the new period's own address, postal_code, latitude, longitude and variable_data. The same
    object where the client has it since then already.
    """
    current = valid_at(relations.periods, since)
    if current is None:
        raise Refused(f"nobody has {relations.kind} {relations.element_id} at {shown(since)}: use selfgen install add.")
    new = Period(client_id=client_id, init_date=since, end_date=current.end_date, **(site or {}))
    if current == new:
        return relations
    if current.client_id == client_id and not site:
        raise Refused(f"{described(relations, current)} already: there is nothing to move.")
    if current.init_date == since:
        raise Refused(f"{described(relations, current)}: correct that period instead (selfgen install correct).")
    _check_not_retired(relations, new.end_date, since)
    index = relations.periods.index(current)
    periods = [*relations.periods]
    periods[index : index + 1] = [replace(current, end_date=since), new]
    return replace(relations, periods=periods)


def ended(relations: Relations, at: datetime) -> Relations:
    """Return the relations with the period that holds at an instant closed there; the same where it is."""
    if any(period.end_date == at for period in relations.periods) and not valid_at(relations.periods, at):
        return relations
    current = valid_at(relations.periods, at)
    if current is None:
        raise Refused(f"nobody has {relations.kind} {relations.element_id} at {shown(at)}: there is nothing to end.")
    if current.init_date == at:
        raise Refused(f"{described(relations, current)}: the end must be later than that.")
    return replace(relations, periods=_replaced(relations.periods, current, replace(current, end_date=at)))


def retired(relations: Relations, at: datetime, replaced_by: str | None = None) -> Relations:
    """Return the relations of an element that goes out of service; the same object where it did so then."""
    if relations.retired is not None:
        if relations.retired == at and relations.replaced_by == replaced_by:
            return relations
        raise Refused(
            f"{relations.kind} {relations.element_id} is retired since {shown(relations.retired)}"
            + (f", replaced by {relations.replaced_by}" if relations.replaced_by else "")
            + ": there is nothing to do."
        )
    for period in relations.periods:
        if period.init_date >= at:
            raise Refused(f"{described(relations, period)}: retire it later than that.")
    current = valid_at(relations.periods, at)
    periods = relations.periods
    if current is not None:
        periods = _replaced(periods, current, replace(current, end_date=at))
    return replace(relations, periods=periods, retired=at, replaced_by=replaced_by)


def corrected(relations: Relations, at: datetime, period: Period) -> Relations:
    """Return the relations with the period that holds at an instant replaced by another.

    Where the element came from another client at its start, that is one instant: the period before ends when this one
    begins now. An end is corrected alone, so that there may be a time in which nobody has the element.
    """
    current = valid_at(relations.periods, at)
    if current is None:
        raise Refused(f"nobody has {relations.kind} {relations.element_id} at {shown(at)}: use selfgen install add.")
    if current == period:
        return relations
    others = [
        replace(other, end_date=period.init_date)
        if other.end_date == current.init_date and other.init_date < period.init_date
        else other
        for other in relations.periods
        if other != current
    ]
    return opened(replace(relations, periods=others), period)


def succeeded(relations: Relations, replaced: Relations) -> Relations:
    """Return the relations of a replacement: from the old element's last instant, its place is this one's.

    One change of the old element's document decides the replacement; the new one's own follows from it, so
    that a command killed between the two leaves nothing undecided.
    """
    if relations.periods or replaced.replaced_by != relations.element_id or replaced.retired is None:
        return relations
    for period in replaced.periods:
        if period.end_date == replaced.retired:
            return replace(relations, periods=[replace(period, init_date=replaced.retired, end_date=None)])
    return relations


Span = tuple[datetime, datetime | None]


def changed_spans(before: Sequence[Period], after: Sequence[Period]) -> list[Span]:
    """Return the spans `[from, to)` in which two lists of periods answer differently; an open end is None."""
    ends = {border for period in (*before, *after) for border in (period.init_date, period.end_date)}
    borders = sorted(border for border in ends if border is not None)
    spans: list[Span] = []
    for start, end in zip_longest(borders, borders[1:]):
        if _answer(before, start) == _answer(after, start):
            continue
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _answer(periods: Sequence[Period], at: datetime) -> Period | None:
    period = valid_at(periods, at)
    epoch = datetime.fromtimestamp(0, UTC)
    return None if period is None else replace(period, init_date=epoch, end_date=None)


def _check_order(period: Period) -> None:
    if period.end_date is not None and period.end_date <= period.init_date:
        raise Refused(
            f"the end {shown(period.end_date)} is not after the start {shown(period.init_date)}: give a later end."
        )


def _check_not_retired(relations: Relations, end: datetime | None, since: datetime) -> None:
    out = relations.retired
    if out is not None and (end is None or end > out or since >= out):
        raise Refused(
            f"{relations.kind} {relations.element_id} is retired since {shown(out)}: "
            "give a period that ends by then, or another element."
        )


def _overlap(one: Period, other: Period) -> bool:
    return (other.end_date is None or one.init_date < other.end_date) and (
        one.end_date is None or other.init_date < one.end_date
    )


def _in_order(periods: list[Period]) -> list[Period]:
    return sorted(periods, key=lambda period: period.init_date)


def _replaced(periods: list[Period], old: Period, new: Period) -> list[Period]:
    return [new if period == old else period for period in periods]
