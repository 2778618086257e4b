"""Wind windows of ten and a hundred times the sensors, at the same number of readings: what the job's rate becomes.

The contestants are the job of `selfgen bench wind` and the same windows in pure SQL, on one core, with each sensor
registered and the readings spread over more of them: a hundred times the sensors have a hundredth of the readings in
each second, so that a window of a hundred thousand sensors holds one reading or none.
"""

from __future__ import annotations

from benchmarks.form import Figure
from benchmarks.servers import room_for
from benchmarks.wind import Plan, contestant, wind
from selfgen.settings import Settings

_SENSORS = (1_000, 10_000, 100_000)
_OF_FEW = 0.8
_KINDS = {"enriched": "the job", "plain": "pure SQL"}


def run(settings: Settings) -> list[Figure]:
    """Measure each number of sensors on servers of its own."""
    rates: dict[tuple[str, int], float] = {}
    for sensors in _SENSORS:
        plan = Plan(few=200_000, many=800_000, sensors=sensors)  # the first 200 000 know all sensors
        room = settings.model_copy(update=room_for(max(_SENSORS)))
        with wind(room, sensors, plan.many) as own:
            for kind in _KINDS:
                rates[kind, sensors] = contestant(own, kind, plan.few, plan.many)
    return [
        *(
            Figure(f"{sensors} sensors, {_KINDS[kind]}", round(rate), "readings/s")
            for (kind, sensors), rate in rates.items()
        ),
        *(
            Figure(
                f"{sensors} sensors / {_SENSORS[0]}, {name}",
                round(rates[kind, sensors] / rates[kind, _SENSORS[0]], 2),
                "×",
                bar=(">=", _OF_FEW) if kind == "enriched" else None,
            )
            for kind, name in _KINDS.items()
            for sensors in _SENSORS[1:]
        ),
    ]
