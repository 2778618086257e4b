"""The message contract as Flink SQL needs it, derived from the message types."""

from __future__ import annotations

import msgspec

from selfgen.messages import EARLIEST_MS, MAX_BYTES, MAX_ID_BYTES, MESSAGE_TYPES

#: How Flink writes what is not a composite, as regular expressions; a number so large is infinite.
_STRING = r'"([^"\\]|\\.)*"'
_STRING_NOT_NUMBER = r'"[^"\\]*[^"\\0-9][^"\\]*"'
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


def known_fields(topic: str, text: str) -> str:
    """Return the SQL text of only the fields that the contract knows, as compact JSON in order of their names."""
    names = ",".join(f'"{name}"' for name in _fields(topic))
    return f"JSON_QUERY({text}, '$[{names}]')"


def number(known: str, name: str) -> str:
    """Return the SQL number of a field of `known_fields`; NULL where it is absent or null."""
    return f"""TRY_CAST(REGEXP_EXTRACT({known}, '[,{{]"{name}":([-+.0-9E]+)[,}}]', 1) AS DOUBLE)"""


def well_formed(topic: str, message: str, text: str, known: str) -> str:
    """Return the SQL condition that a message is one JSON object whose known fields are of the contract's types.

    Parameters
    ----------
    message, text, known
        Its bytes, their cast to a string, and its `known_fields`.
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
        # JSON_VALUE cannot tell "7" from 7
        either = any(isinstance(kind, msgspec.inspect.IntType) for kind in kinds)
        texts = {msgspec.inspect.StrType: _STRING_NOT_NUMBER} if either else {}
        one = f'"{name}":({"|".join((patterns | texts)[type(kind)] for kind in kinds)}),'
        described.append(one if required else f"({one})?")
    # a comma stands after the last field as after the others
    listed = f"CONCAT(SUBSTRING({known}, 1, CHAR_LENGTH({known}) - 1), ',')"
    return f"""
        CHAR_LENGTH({text}) <= {MAX_BYTES}
        AND (CHAR_LENGTH({text}) <= {MAX_BYTES // 4} OR CHAR_LENGTH(HEX({text})) <= {2 * MAX_BYTES})
        AND ENCODE({text}, 'UTF-8') = {message}
        AND REGEXP({listed}, '^[{{]{"".join(described)}$')
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
