"""What is published about the messages agrees with how they are judged."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfgen.contract import INVALID, VALID, check, page, schema
from selfgen.messages import MESSAGE_TYPES, REASONS, decode
from selfgen.settings import ROOT

NOW_MS = 1_774_094_400_000  # 2026-03-21T12:00:00Z


@pytest.mark.parametrize("topic", MESSAGE_TYPES)
def test_the_schemas_are_schemas(topic: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(topic))


@pytest.mark.parametrize("topic", MESSAGE_TYPES)
def test_valid_examples_are_accepted(topic: str) -> None:
    messages = [json.dumps(each).encode() for each in VALID[topic]]
    assert [verdict.reason for verdict in check(topic, messages, NOW_MS + 60_000)] == [""] * len(messages)
    for each in VALID[topic]:
        jsonschema.validate(each, schema(topic))


def test_every_reason_has_an_example_that_shows_it() -> None:
    verdicts = {reason: next(check("panel", [message], NOW_MS)).reason for reason, message in INVALID.items()}
    assert verdicts == {reason: reason for reason in INVALID}
    assert REASONS.keys() - INVALID.keys() == {"too_large"}


def test_lines_are_numbered_over_batches() -> None:
    messages = [json.dumps(VALID["wind"][0]).encode()] * 10_001 + [b"{"]
    refused = [verdict for verdict in check("wind", messages, NOW_MS) if verdict.reason]
    assert [(verdict.line, verdict.reason) for verdict in refused] == [(10_002, "malformed_json")]


def test_the_page_in_the_documentation_is_the_one_that_is_made() -> None:
    assert (ROOT / "docs" / "devices.md").read_text() == page()


_number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
_field = st.one_of(
    st.sampled_from([0, -0.0, -50, -50.5, 120, 120.5, 360, 359.99, 2000, 2001, -1000, 10_000_000, True, None, "1"]),
    _number,
)


@settings(max_examples=200, deadline=None)
@given(
    topic=st.sampled_from(sorted(MESSAGE_TYPES)),
    values=st.dictionaries(
        st.sampled_from(["wind_speed", "wind_direction", "temperature", "irradiance", "power", "energy", "note"]),
        _field,
    ),
    element_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.integers(),
)
@example(topic="light", values={"irradiance": 1.0}, element_id="light-1\n")
def test_schema_and_landing_agree(topic: str, values: dict[str, Any], element_id: Any) -> None:
    message = {f"{topic}_id": element_id, "timestamp": NOW_MS, **values}
    valid = jsonschema.Draft202012Validator(schema(topic)).is_valid(message)
    assert valid == bool(decode(topic, [json.dumps(message).encode()], NOW_MS).indexes)
