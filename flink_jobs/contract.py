"""The message contract as Flink SQL needs it, derived from the message types."""

from __future__ import annotations

import msgspec

from selfgen.messages import EARLIEST_MS, MAX_BYTES, MAX_ID_BYTES, MESSAGE_TYPES

#: How Flink writes what is not a composite, as regular expressions; a number so large is infinite.
_STRING = r'"([^"\\]|\\.)*"'
_INTEGER = "-?[0-9]+"
_NUMBER = "-?[0-9.]+(E(-[0-9]+|[+]?([0-9]{1,2}|[12][0-9]{2})))?"


def _fields(topic: str) -> dict[str, tuple[tuple[msgspec.inspect.Type, ...], bool]]:
    """Return the types that each field of a message may have, and whether it is required."""
    fields = {}
    for described in msgspec.inspect.type_info(MESSAGE_TYPES[topic]).fields:
        kinds = described.type.types if isinstance(described.type, msgspec.inspect.UnionType) else (described.type,)
        plain = tuple(kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in kinds)
        fields[described.name] = (plain, described.required)
    return fields


def well_formed(topic: str, message: str, text: str) -> str:
    """Return the SQL condition that a message is one JSON object whose known fields are of the contract's types.

    Parameters
    ----------
    message, text
        Its bytes, and their cast to a string.
    """
    patterns = {
        msgspec.inspect.StrType: _STRING,
        msgspec.inspect.IntType: _INTEGER,
        msgspec.inspect.FloatType: _NUMBER,
        msgspec.inspect.NoneType: "null",
    }
    fields = _fields(topic)
    described = []
    for name in sorted(fields):  # the order in which JSON_QUERY gives them
        kinds, required = fields[name]
        one = f'"{name}":({"|".join(patterns[type(kind)] for kind in kinds)}),'
        described.append(one if required else f"({one})?")
    names = ",".join(f'"{name}"' for name in fields)
    # only the known fields, as compact JSON; a comma is put after the last as after the others
    known = f"REGEXP_REPLACE(JSON_QUERY({text}, '$[{names}]'), '}}$', ',')"
    return f"""
        CHAR_LENGTH({text}) <= {MAX_BYTES}
        AND (CHAR_LENGTH({text}) <= {MAX_BYTES // 4} OR CHAR_LENGTH(HEX({text})) <= {2 * MAX_BYTES})
        AND ENCODE({text}, 'UTF-8') = {message}
        AND REGEXP({known}, '^[{{]{"".join(described)}$')
        -- strict where JSON_QUERY is not: a field twice, something behind the object
        AND TRY_PARSE_JSON(CONCAT('[{{"":', {text}, '}}]')) IS NOT NULL"""


def limits(topic: str, name: str) -> str:
    """Return the SQL condition that a numeric field is within the contract's limits, or absent where it may be."""
    kinds, required = _fields(topic)[name]
    number = next(kind for kind in kinds if isinstance(kind, msgspec.inspect.FloatType))
    bounds = ((">=", number.ge), ("<=", number.le), ("<", number.lt))
    inside = " AND ".join(f"{name} {sign} {bound}" for sign, bound in bounds if bound is not None)
    return f"({inside})" if required else f"({name} IS NULL OR {inside})"


def element_id(name: str) -> str:
    """Return the SQL condition that an element's id is one: not empty, not too long, without control characters."""
    digits = f"CHAR_LENGTH(HEX({name}))"  # two for each byte of UTF-8
    return f"{name} <> '' AND {digits} <= {2 * MAX_ID_BYTES} AND NOT REGEXP({name}, '[\\x00-\\x1f\\x7f-\\x9f]')"


def known_time(name: str) -> str:
    """Return the SQL condition that a time is not before the contract's earliest."""
    return f"{name} >= TO_TIMESTAMP_LTZ({EARLIEST_MS}, 3)"
