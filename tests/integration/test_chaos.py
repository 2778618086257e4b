"""The short forms of the failure tests: the same proofs as `selfgen chaos`, with fewer and quicker blows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import chaos_broken, chaos_landing
from benchmarks.form import Figure
from benchmarks.servers import own_stack
from selfgen.settings import Settings, get_settings

pytestmark = pytest.mark.integration


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Servers whose topics and collections nobody else has used."""
    with own_stack(get_settings(), f"{request.node.name}", "kafka", "mongodb") as settings:
        yield settings


def missed(figures: list[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.holds is False]


def test_kills_lose_and_double_nothing(own: Settings) -> None:
    plan = chaos_landing.Plan(rate=2000, consumer_kills=3, server_kills=1, rebalances=1, pause_s=1.5)
    figures = chaos_landing.chaos(own, plan)
    assert missed(figures) == []
    assert {figure.name: figure.value for figure in figures}["landed"] > 2000


def test_only_broken_messages_leave_consumers_alive_and_good_ones_land(own: Settings) -> None:
    # half a minute is too short for the allocators to settle; consumers that keep what they refuse still exceed this
    figures = chaos_broken.chaos(own, chaos_broken.Plan(minutes=0.5, sample_s=0.5, growth=1.5))
    assert missed(figures) == []
