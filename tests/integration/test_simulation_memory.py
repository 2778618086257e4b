"""The simulator's memory, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def test_memory_does_not_grow_with_the_span() -> None:
    program = """
import sys
from datetime import UTC, datetime, timedelta
from selfgen.simulation import generate as module
from selfgen.simulation.fleet import make_fleet
module.SLICE = 20_000
start = datetime(2026, 6, 1, tzinfo=UTC)
made = sum(
    batch.lines().nbytes > 0 and len(batch)
    for batch in module.generate(make_fleet(4, winds=8), start, start + timedelta(hours=int(sys.argv[1])))
)
# not getrusage: its peak is at least that of the process that started this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(made, peak.split()[1])
"""

    def run(hours: int) -> tuple[int, int]:
        output = subprocess.check_output([sys.executable, "-c", program, str(hours)], env=dict(os.environ))
        made, peak = map(int, output.split())
        return made, peak

    (few, low), (many, high) = run(1), run(4)
    assert many > 3.9 * few > 390_000
    assert high < 1.12 * low
