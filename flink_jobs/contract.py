"""The message contract as Flink SQL needs it, derived from the message types."""

from __future__ import annotations

import msgspec

from selfgen.messages import EARLIEST_MS, MAX_ID_BYTES, MESSAGE_TYPES


def limits(topic: str, name: str) -> str:
    """Return the SQL condition that a numeric field is within the contract's limits, or absent where it may be."""
    info = msgspec.inspect.type_info(MESSAGE_TYPES[topic])
    described = next(field for field in info.fields if field.name == name)
    kinds = described.type.types if isinstance(described.type, msgspec.inspect.UnionType) else (described.type,)
    plain = (kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in kinds)
    number = next(kind for kind in plain if isinstance(kind, msgspec.inspect.FloatType))
    bounds = ((">=", number.ge), ("<=", number.le), ("<", number.lt))
    inside = " AND ".join(f"{name} {sign} {bound}" for sign, bound in bounds if bound is not None)
    return f"({inside})" if described.required else f"({name} IS NULL OR {inside})"


def element_id(name: str) -> str:
    """Return the SQL condition that an element's id is one: not empty, not too long, without control characters."""
    digits = f"CHAR_LENGTH(HEX({name}))"  # two for each byte of UTF-8
    return f"{name} <> '' AND {digits} <= {2 * MAX_ID_BYTES} AND NOT REGEXP({name}, '[\\x00-\\x1f\\x7f-\\x9f]')"


def known_time(name: str) -> str:
    """Return the SQL condition that a time is not before the contract's earliest."""
    return f"{name} >= TO_TIMESTAMP_LTZ({EARLIEST_MS}, 3)"
