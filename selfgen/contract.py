"""The contract with device makers: JSON Schemas, examples and a page, all made from the message types.

>>> schema("panel")["required"]
['panel_id', 'timestamp', 'power']
>>> [verdict.reason for verdict in check("wind", [b'{"wind_id": "w1"}'], now_ms=0)]
['missing_field']
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from selfgen.messages import (
    MAX_AHEAD_MS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ID_BYTES,
    MESSAGE_TYPES,
    REASONS,
    decode,
    value_fields,
)

_CHECKED_AT_ONCE = 10_000
#: An event time for the examples.
_EXAMPLE_TIME = datetime(2026, 3, 21, 12, 0, tzinfo=UTC)

#: Good messages, by topic.
VALID: dict[str, list[dict[str, Any]]] = {
    "wind": [
        {"wind_id": "wind-001", "timestamp": "2026-03-21T12:00:00Z", "wind_speed": 4.2},
        {
            "wind_id": "wind-001",
            "timestamp": "2026-03-21T13:00:01.500+01:00",
            "wind_speed": 4.5,
            "wind_direction": 270,
            "temperature": 18.5,
        },
    ],
    "light": [
        {"light_id": "light-001", "timestamp": 1774094400000, "irradiance": 812.4},
        {"light_id": "light-001", "timestamp": "2026-03-21T00:00:00Z", "irradiance": -2.1, "temperature": 3},
    ],
    "panel": [
        {"panel_id": "panel-001", "timestamp": "2026-03-21T12:00:00Z", "power": 2875.5},
        {
            "panel_id": "panel-001",
            "timestamp": 1774094460000,
            "power": 2880,
            "energy": 1234567.8,
            "temperature": 41.2,
            "firmware": "2.4.1",
        },
    ],
}

#: A bad message of a panel for each reason that a line of text can show; `too_large` it cannot.
INVALID: dict[str, bytes] = {
    "malformed_json": b'{"panel_id": "panel-001", "timestamp": 1774094400000, "power": 2875.5',
    "not_an_object": b"[2875.5]",
    "missing_field": b'{"panel_id": "panel-001", "timestamp": 1774094400000}',
    "wrong_type": b'{"panel_id": "panel-001", "timestamp": 1774094400000, "power": "2875.5"}',
    "out_of_range": b'{"panel_id": "panel-001", "timestamp": 1774094400000, "power": -2875.5}',
    "bad_timestamp": b'{"panel_id": "panel-001", "timestamp": "2026-03-21 12:00", "power": 2875.5}',
    "future_timestamp": b'{"panel_id": "panel-001", "timestamp": "2026-03-21T13:00:00Z", "power": 2875.5}',
    "invalid_utf8": b'{"panel_id": "panel-\xff", "timestamp": 1774094400000, "power": 2875.5}',
    "bad_id": b'{"panel_id": "", "timestamp": 1774094400000, "power": 2875.5}',
}


class Verdict(NamedTuple):
    """The judgement of one message: its line (from 1), and why it is refused; `reason` is empty for a good one."""

    line: int
    reason: str
    text: str


def schema(topic: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a topic's messages."""
    type_ = MESSAGE_TYPES[topic]
    described: dict[str, Any] = msgspec.json.schema(type_)["$defs"][type_.__name__]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "examples": VALID[topic], **described}


def check(topic: str, messages: Iterable[bytes], now_ms: int) -> Iterator[Verdict]:
    """Judge messages as landing does.

    Parameters
    ----------
    topic : str
        Where they would be sent.
    messages : iterable of bytes
        One message each.
    now_ms : int
        Epoch ms, from which "future" is measured.
    """
    rest, line = iter(messages), 1
    while batch := list(islice(rest, _CHECKED_AT_ONCE)):
        refused = {each.index: each for each in decode(topic, batch, now_ms).refused}
        for index in range(len(batch)):
            found = refused.get(index)
            yield Verdict(line + index, found.reason if found else "", found.text if found else "")
        line += len(batch)


def page() -> str:
    """Return the page for device makers (Markdown)."""
    return "\n".join([*_rules(), *_types(), *_refusals(), ""])


def _rules() -> list[str]:
    return [
        "# For device makers",
        "",
        "<!-- made by `selfgen contract page`; change the types in selfgen/messages.py -->",
        "",
        "A device sends one JSON object for each reading to the Kafka topic of its kind. Test its output before it",
        "is connected: `selfgen contract check FILE --topic panel`, one message a line. The JSON Schemas:",
        "`selfgen contract schema panel`.",
        "",
        "- **Encoding**: UTF-8, without byte order mark. At most "
        f"{MAX_BYTES // 1024} KiB, nested at most {MAX_DEPTH} levels deep, no field twice.",
        f"- **Key** of the Kafka record: the element's id, 1 to {MAX_ID_BYTES} bytes of UTF-8 without control "
        "characters. Records of one",
        "  element then stay in order.",
        "- **`timestamp`** is when the device measured: RFC 3339 with an offset (`2026-03-21T12:00:00Z`), or integer",
        f"  milliseconds since 1970 in UTC. At most {MAX_AHEAD_MS // 60_000} minutes ahead; years late is well. Its "
        "milliseconds count,",
        "  finer parts are cut off.",
        "- **Sending again** is safe: the same element and time with the same content changes nothing, with other",
        "  content the new one replaces the old.",
        "- **Unknown fields** are kept. Their numbers must be 64-bit integers or finite.",
        "- An optional field that is `null` is taken as absent.",
        "",
    ]


def _types() -> list[str]:
    lines: list[str] = []
    for topic, type_ in MESSAGE_TYPES.items():
        described = schema(topic)
        lines += [f"## Topic `{topic}`", "", f"{type_.__doc__}", "", "| field | | limits | meaning |"]
        lines += ["| --- | --- | --- | --- |"]
        for name, field in described["properties"].items():
            need = "required" if name in described["required"] else "optional"
            kinds = [kind for kind in field.get("anyOf", [field]) if kind["type"] != "null"]
            meaning = "; or ".join(kind["description"] for kind in kinds)
            lines.append(f"| `{name}` | {need} | {_limits(kinds) if name in value_fields(topic) else ''} | {meaning} |")
        lines += ["", "```json", *(json.dumps(example) for example in VALID[topic]), "```", ""]
    return lines


def _limits(kinds: list[dict[str, Any]]) -> str:
    [number] = kinds
    low, high, below = (number.get(name) for name in ("minimum", "maximum", "exclusiveMaximum"))
    if low is None:
        return "finite"
    end = f"{_spaced(high)}]" if high is not None else f"{_spaced(below)})" if below is not None else "∞)"
    return f"[{_spaced(low)}, {end}"


def _spaced(limit: float) -> str:
    return f"{limit:,}".replace(",", " ")


def _refusals() -> list[str]:
    now_ms = int(_EXAMPLE_TIME.timestamp() * 1000)
    lines = [
        "## Why a message is refused",
        "",
        "A refused message is kept with its bytes and a sentence (`selfgen rejected list`); the rest goes on.",
        f"The examples are judged at {_EXAMPLE_TIME:%Y-%m-%dT%H:%M:%SZ}.",
        "",
        "| reason | meaning |",
        "| --- | --- |",
        *(f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()),
        "",
        "```",
    ]
    for message in INVALID.values():
        [verdict] = check("panel", [message], now_ms)
        lines += [message.decode("utf-8", "backslashreplace"), f"  {verdict.reason}: {verdict.text}"]
    return [*lines, "```"]
