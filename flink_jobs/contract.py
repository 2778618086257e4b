"""The message contract as Flink SQL needs it, derived from the message types."""

from __future__ import annotations

import msgspec

from selfgen.messages import MESSAGE_TYPES


def limits(topic: str, name: str) -> tuple[float, float]:
    """Return the least and greatest value that the contract allows for a numeric field."""
    info = msgspec.inspect.type_info(MESSAGE_TYPES[topic])
    described = next(field.type for field in info.fields if field.name == name)
    kind = described.type if isinstance(described, msgspec.inspect.Metadata) else described
    return kind.ge, kind.le
