"""Wind windows of ten and a hundred times the sensors, at the same number of readings: what the job's rate becomes.

The contestant is the job of `selfgen bench wind`, on one core, with each sensor registered and its readings spread
over more of them: a hundred times the sensors have a hundredth of the readings in each second, so that a window of a
hundred thousand sensors holds one reading or none.
"""

from __future__ import annotations

from benchmarks.form import Figure
from benchmarks.servers import room_for
from benchmarks.wind import Plan, contestant, wind
from selfgen.settings import Settings

_SENSORS = (1_000, 10_000, 100_000)
_OF_FEW = 0.8


def run(settings: Settings) -> list[Figure]:
    """Measure each number of sensors on servers of its own."""
    rates = {}
    for sensors in _SENSORS:
        plan = Plan(few=200_000, many=800_000, sensors=sensors)  # the first 200 000 know all sensors
        room = settings.model_copy(update=room_for(max(_SENSORS)))
        with wind(room, sensors, plan.many) as own:
            rates[sensors] = contestant(own, "enriched", plan.few, plan.many)
    first = rates[_SENSORS[0]]
    return [
        *(Figure(f"{sensors} sensors", round(rate), "readings/s") for sensors, rate in rates.items()),
        *(
            Figure(f"{sensors} sensors / {_SENSORS[0]}", round(rates[sensors] / first, 2), "×", bar=(">=", _OF_FEW))
            for sensors in _SENSORS[1:]
        ),
    ]
