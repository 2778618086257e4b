"""What the wind job remembers of a sensor's times, in Java, against sets in Python: disorder, timers, checkpoints."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from selfgen.settings import get_settings
from stack.install import install
from stack.servers import classpath

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

KEPT_MS = 900_000
SPAN_MS = 2**16
NEVER = 2**63 - 1
START_MS = 1_767_225_600_000


class Spans:
    """Times by span, and up to which watermark each span is kept."""

    def __init__(self) -> None:
        self.times: dict[int, set[int]] = {}
        self.until: dict[int, int] = {}

    def copy(self) -> Spans:
        other = Spans()
        other.times = {span: set(times) for span, times in self.times.items()}
        other.until = dict(self.until)
        return other

    def add(self, at: int, watermark: int) -> bool:
        span = at // SPAN_MS
        if at in self.times.setdefault(span, set()):
            return False
        self.times[span].add(at)
        until = KEPT_MS + max((span + 1) * SPAN_MS, watermark)
        self.until[span] = max(self.until.get(span, until), until)
        return True

    def forget(self, watermark: int) -> int:
        for span in [span for span, until in self.until.items() if until <= watermark]:
            del self.until[span], self.times[span]
        return min(self.until.values(), default=NEVER)


def in_java(commands: list[str]) -> list[str]:
    install(get_settings())
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath(get_settings(), "flink/lib")]
    command += [str(Path(__file__).with_name("RememberTimes.java")), str(KEPT_MS)]
    return subprocess.run(
        command, input="\n".join(commands), text=True, stdout=subprocess.PIPE, check=True
    ).stdout.split()


def test_a_time_counts_again_when_the_watermark_is_far_enough_past_it_and_not_before():
    end = (START_MS // SPAN_MS + 1) * SPAN_MS
    late = end + KEPT_MS - 1
    commands = [
        f"add {START_MS} {START_MS - 2000}",
        f"add {START_MS} {START_MS + 5000}",  # after its window closed
        f"forget {end + KEPT_MS - 1}",
        f"add {START_MS + 1} {late}",  # the span goes on, from now
        f"forget {end + KEPT_MS}",
        f"add {START_MS} {late}",
        f"forget {late + KEPT_MS}",
        f"add {START_MS} {late}",
    ]
    due, later = end + KEPT_MS, late + KEPT_MS
    assert in_java(commands) == ["true", "false", f"{due}", "true", f"{later}", "false", f"{NEVER}", "true"]


def test_disorder_timers_and_checkpoints_as_sets():
    chance = random.Random(5)
    seen, commands, expected = Spans(), [], []
    held = seen.copy()
    now = START_MS
    for _ in range(40_000):
        now += chance.randrange(200)
        kind = chance.random()
        if kind < 0.003:
            commands.append("snapshot")
            held = seen.copy()
        elif kind < 0.004:
            commands.append("restore")
            seen = held.copy()
        elif kind < 0.01:
            commands.append(f"forget {now}")
            expected.append(str(seen.forget(now)))
        else:
            behind = chance.choice([0, 0, 0, 0, chance.randrange(3_000), chance.randrange(2 * KEPT_MS)])
            at = now - behind if chance.random() < 0.9 else (now - behind) // 100 * 100
            commands.append(f"add {at} {now - 2000}")
            expected.append(str(seen.add(at, now - 2000)).lower())
    assert in_java(commands) == expected
    assert expected.count("false") > 100
