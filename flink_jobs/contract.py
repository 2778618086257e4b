"""The message contract for the Flink format `contract`, described from the message types.

The format (`stack/flink_format`) judges each message in Java as it is read, by this description.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from selfgen.messages import (
    EARLIEST_MS,
    LATEST_MS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ID_BYTES,
    MAX_TIME_LENGTH,
    MESSAGE_TYPES,
)

SQL_TYPES = {"id": "STRING", "time": "TIMESTAMP_LTZ(3)", "number": "DOUBLE"}


def fields(topic: str) -> list[dict[str, Any]]:
    """Return what each declared field of a topic's messages must be, as the format takes it."""
    described = msgspec.inspect.type_info(MESSAGE_TYPES[topic]).fields
    return [{"name": field.name, "required": field.required} | _value(field.type) for field in described]


def _value(type_: msgspec.inspect.Type) -> dict[str, Any]:
    kinds = type_.types if isinstance(type_, msgspec.inspect.UnionType) else (type_,)
    plain = [kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in kinds]
    if any(isinstance(kind, msgspec.inspect.IntType) for kind in plain):
        return {"kind": "time", "least": EARLIEST_MS, "most": LATEST_MS, "max_length": MAX_TIME_LENGTH}
    if any(isinstance(kind, msgspec.inspect.StrType) for kind in plain):
        return {"kind": "id", "max_length": MAX_ID_BYTES}
    number = next(kind for kind in plain if isinstance(kind, msgspec.inspect.FloatType))
    limits = {"least": number.ge, "most": number.le, "below": number.lt}
    return {"kind": "number"} | {name: limit for name, limit in limits.items() if limit is not None}


def description(topic: str) -> str:
    """Return the format's option: what a topic's messages must be, as JSON."""
    return json.dumps({"max_bytes": MAX_BYTES, "max_depth": MAX_DEPTH, "fields": fields(topic)})


def columns(topic: str) -> str:
    """Return the declared fields of a topic's messages as the inside of a CREATE TABLE."""
    return ", ".join(f"`{field['name']}` {SQL_TYPES[field['kind']]}" for field in fields(topic))


def options(topic: str) -> dict[str, str]:
    """Return the table options that read a topic's messages by the contract; those that break it are no rows."""
    return {"format": "contract", "contract.description": description(topic)}
