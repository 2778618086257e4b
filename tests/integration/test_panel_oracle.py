"""The short form of `selfgen chaos panels`: every column of panel_report against plain pandas."""

from __future__ import annotations

import pytest

from benchmarks import chaos_panels
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_every_column_is_what_plain_pandas_says(stack: Stack) -> None:
    stack.up(*chaos_panels.SERVERS)
    figures = chaos_panels.against_oracle(stack.settings, chaos_panels.short())
    assert [figure for figure in figures if figure.holds is False] == []
