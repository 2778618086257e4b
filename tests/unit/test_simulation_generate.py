"""The simulator: weather, panels, faults, repeatability, memory."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pvlib
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pvlib.location import Location
from pvlib.modelchain import ModelChain
from pvlib.pvsystem import Array, FixedMount, PVSystem
from typer.testing import CliRunner

from selfgen.cli import app
from selfgen.messages import decode
from selfgen.registry import Kind
from selfgen.simulation import generate as generate_module
from selfgen.simulation.batch import Message
from selfgen.simulation.disorder import Disorder
from selfgen.simulation.fleet import KINDS, demo_fleet, make_fleet
from selfgen.simulation.generate import generate, random_faults
from selfgen.simulation.truth import Fault, Truth
from selfgen.simulation.weather import SYSTEM_LOSSES, TEMPERATURE_COEFFICIENT, ac_power, sky

from .simulation_oracle import count, messages, time_of, values_of

START = datetime(2026, 6, 1, tzinfo=UTC)
PLAIN = Disorder(duplicated=0, late=0, broken=0)
MINUTELY: dict[Kind, int] = {"panel": 60_000, "light": 60_000, "wind": 60_000}
DATA = Path(pvlib.__file__).parent / "data"


def ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def panel_series(fault: Fault | None = None, *, hours: int = 24, meter: bool = False) -> list[Message]:
    return messages(
        generate(
            make_fleet(2, lights=0, winds=0),
            START,
            START + timedelta(hours=hours),
            intervals_ms={"panel": 60_000},
            faults=[fault] if fault else [],
            meter=meter,
            disorder=PLAIN,
        )
    )


@pytest.fixture(scope="module")
def untroubled() -> list[Message]:
    return panel_series(meter=True)


# -- counts ------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31),
    duplicated=st.floats(0, 0.3),
    late=st.floats(0, 0.3),
    broken=st.floats(0, 0.3),
    interval_s=st.integers(20, 400),
)
def test_truth_counts_what_a_plain_reader_finds(
    seed: int, duplicated: float, late: float, broken: float, interval_s: int
) -> None:
    truth = Truth()
    end = START + timedelta(hours=3)
    sent = messages(
        generate(
            demo_fleet(),
            START,
            end,
            seed,
            intervals_ms=dict.fromkeys(KINDS, interval_s * 1000),
            disorder=Disorder(duplicated=duplicated, late=late, broken=broken),
            truth=truth,
        )
    )
    found = count(sent, ms(end))
    for name, topic in truth.topics.items():
        assert found[name]["produced"] == topic.produced
        assert found[name]["landed"] == topic.landed
        assert found[name]["duplicates"] == topic.duplicates
        assert found[name]["refused"] == topic.refused
    for kind in KINDS:
        readings = -(-3 * 3600 // interval_s) * len(demo_fleet().elements(kind))
        # the first reading of the span may fall between two multiples of the interval
        made = truth.topics[kind].produced - truth.topics[kind].duplicates
        assert readings - len(demo_fleet().elements(kind)) <= made <= readings


def test_the_contract_accepts_what_is_to_land(untroubled: list[Message]) -> None:
    judged = decode("panel", [message.value for message in untroubled], ms(START + timedelta(days=1)))
    assert judged.refused == []
    assert judged.event_times_ms.tolist() == [message.event_ms for message in untroubled]


def test_same_arguments_same_bytes_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, end = make_fleet(3), START + timedelta(hours=26)
    faults = random_faults(fleet, START, end, 0.7, seed=1)

    def run() -> list[Message]:
        return messages(generate(fleet, START, end, 1, intervals_ms=MINUTELY, faults=faults))

    whole, again = run(), run()
    assert whole == again
    monkeypatch.setattr(generate_module, "SLICE", 700)
    assert Counter(run()) == Counter(whole)


def test_another_seed_gives_other_values() -> None:
    first, other = (
        messages(generate(make_fleet(1), START, START + timedelta(hours=12), seed, intervals_ms=MINUTELY))
        for seed in (1, 2)
    )
    assert {m.value for m in first}.isdisjoint({m.value for m in other if m.outcome == "landed" and m.topic == "wind"})


def test_readings_come_in_order_of_time(untroubled: list[Message]) -> None:
    assert all(before.event_ms <= after.event_ms for before, after in pairwise(untroubled))


# -- weather and panels ------------------------------------------------------------------------------


def test_a_stations_own_weather_comes_back() -> None:
    year = pvlib.iotools.read_tmy3(DATA / "723170TYA.CSV", map_variables=True, coerce_year=2026)[0]
    times = np.arange(ms(datetime(2026, 1, 1, 5, tzinfo=UTC)), ms(datetime(2027, 1, 1, 5, tzinfo=UTC)), 600_000)
    weather = sky(times, 36.1, -79.95)
    for column, simulated, bound in (
        ("ghi", weather.ghi, 0.01),
        ("dni", weather.dni, 0.03),
        ("dhi", weather.dhi, 0.02),
    ):
        assert simulated.sum() / 6 == pytest.approx(year[column].sum(), rel=bound)
        assert simulated.min() >= 0
    hourly = weather.ghi.reshape(8760, 6).mean(axis=1)
    assert np.corrcoef(hourly, year["ghi"].to_numpy())[0, 1] > 0.995
    assert weather.temp_air.mean() == pytest.approx(year["temp_air"].mean(), abs=0.1)
    assert weather.wind_speed.mean() == pytest.approx(year["wind_speed"].mean(), abs=0.05)
    # the parts close: global is diffuse plus the horizontal part of the beam
    height = np.clip(np.cos(np.radians(weather.zenith)), 0, None)
    assert np.allclose(weather.ghi, weather.dhi + weather.dni * height)


@pytest.mark.parametrize(("tilt", "azimuth"), [(30.0, 180.0), (0.0, 180.0), (60.0, 90.0), (20.0, 270.0)])
def test_power_is_what_pvlibs_own_chain_makes_of_the_same_weather(tilt: float, azimuth: float) -> None:
    times = np.arange(ms(START), ms(START + timedelta(days=10)), 600_000)
    weather = sky(times, 40.4, -3.7)
    power, _ = ac_power(weather, np.array([tilt]), np.array([azimuth]), np.array([5000.0]))
    system = PVSystem(
        arrays=[
            Array(
                FixedMount(tilt, azimuth),
                module_parameters={"pdc0": 5000.0, "gamma_pdc": TEMPERATURE_COEFFICIENT},
                temperature_model_parameters={"u0": 25.0, "u1": 6.84},
            )
        ],
        inverter_parameters={"pdc0": 5000.0},
    )
    chain = ModelChain(
        system,
        Location(40.4, -3.7),
        aoi_model="no_loss",
        spectral_model="no_loss",
        dc_model="pvwatts",
        ac_model="pvwatts",
        temperature_model="faiman",
        losses_model="no_loss",
    )
    index = pd.DatetimeIndex(times.astype("datetime64[ms]"), tz="UTC")
    columns = {name: getattr(weather, name) for name in ("ghi", "dni", "dhi", "temp_air", "wind_speed")}
    chain.run_model(pd.DataFrame(columns, index=index))
    energy = np.clip(power[:, 0], 0, None).sum()
    assert energy == pytest.approx(chain.results.ac.sum() * (1 - SYSTEM_LOSSES), rel=0.01)


def test_a_year_gives_what_panels_give() -> None:
    times = np.arange(ms(datetime(2026, 1, 1, tzinfo=UTC)), ms(datetime(2027, 1, 1, tzinfo=UTC)), 1_800_000)
    for latitude, longitude, equator in ((40.4, -3.7, 180.0), (-33.4, -70.7, 0.0), (27.7, 85.3, 180.0)):
        weather = sky(times, latitude, longitude)
        towards, away = (
            ac_power(weather, np.array([30.0, 30.0]), np.array([equator, 180.0 - equator]), np.array([1000.0, 1000.0]))[
                0
            ]
            .clip(0)
            .sum(axis=0)
            / 2000
        )
        assert 1200 < towards < 1700
        assert away < 0.75 * towards


def test_the_sun_shines_by_day_on_every_area() -> None:
    fleet = demo_fleet()
    sent = messages(generate(fleet, START, START + timedelta(days=2), intervals_ms={"light": 600_000}, disorder=PLAIN))
    for element, client in zip(fleet.lights, fleet.owners("light"), strict=True):
        series = values_of(sent, "light", "irradiance")[element.light_id]
        sun = pvlib.solarposition.get_solarposition(
            pd.to_datetime(list(series), unit="ms", utc=True), client.latitude, client.longitude
        )["elevation"].to_numpy()
        values = np.array(list(series.values()))
        assert (values[sun < -1] < 0).all()
        assert (values[sun > 10] > 5).all()
        assert values.max() > 150


def test_wind_has_gusts_around_the_mean() -> None:
    fleet = make_fleet(1, panels=0, lights=0)
    sent = messages(generate(fleet, START, START + timedelta(hours=1), intervals_ms={"wind": 1000}, disorder=PLAIN))
    speeds = np.array(list(values_of(sent, "wind", "wind_speed")["wind-001"].values()))
    assert len(speeds) == 3600
    times = np.arange(ms(START), ms(START) + 3_600_000, 1000)
    mean = sky(times, 40.4, -3.7).wind_speed
    assert speeds.mean() == pytest.approx(mean.mean(), rel=0.05)
    assert 1.15 < (speeds / mean).max() < 1.61
    assert len(np.unique(speeds)) > 100


# -- meter and faults --------------------------------------------------------------------------------


def test_meter_is_the_trapezoid_of_power(untroubled: list[Message]) -> None:
    power = values_of(untroubled, "panel", "power")
    for panel, meter in values_of(untroubled, "panel", "energy").items():
        watts = np.clip(list(power[panel].values()), 0, None)
        produced = ((watts[1:] + watts[:-1]) / 2).sum() / 60
        first, *_, last = meter.values()
        assert last - first == pytest.approx(produced, abs=1)
        assert (np.diff(list(meter.values())) >= -1e-9).all()
        assert produced > 1000


def fault(kind: str, start_hour: float, end_hour: float, amount: float = 0.0) -> Fault:
    start, end = (START + timedelta(hours=hour) for hour in (start_hour, end_hour))
    return Fault(kind, "panel", "panel-001", start, end, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind", ["stuck", "dropped", "drifting", "shaded", "meter_reset", "off", "weak", "limited", "scaled", "clock_shift"]
)
def test_a_fault_touches_its_element_and_span_alone(kind: str, untroubled: list[Message]) -> None:
    # Madrid's day: 12:00 to 16:00 UTC is 14:00 to 18:00 there
    played = fault(kind, 12, 16, amount=0.5)
    sent = panel_series(played, meter=True)
    start_ms, end_ms = played.span_ms
    before, after = values_of(untroubled, "panel", "power"), values_of(sent, "panel", "power")
    meters, meter = (
        values_of(untroubled, "panel", "energy")["panel-001"],
        values_of(sent, "panel", "energy")["panel-001"],
    )
    assert {key: series for key, series in before.items() if key != "panel-001"} == {
        key: series for key, series in after.items() if key != "panel-001"
    }
    was, now = before["panel-001"], after["panel-001"]
    inside = [event_ms for event_ms in was if start_ms <= event_ms < end_ms]
    assert {t: v for t, v in now.items() if t not in inside} == {t: v for t, v in was.items() if t not in inside}
    assert len(inside) == 240
    match kind:
        case "dropped":
            assert not now.keys() & set(inside)
        case "stuck":
            assert {now[event_ms] for event_ms in inside} == {was[inside[0]]}
            # the meter is told of again when the device recovers
            assert meter[inside[0]] == meter[inside[-1]] < meter[end_ms]
            assert meter[end_ms] == meters[end_ms]
        case "drifting":
            share = np.array([now[event_ms] / was[event_ms] for event_ms in inside])
            assert share[0] == pytest.approx(1, abs=0.01)
            assert share[-1] == pytest.approx(0.5, abs=0.01)
        case "shaded" | "weak" | "scaled":
            assert [now[t] for t in inside] == pytest.approx([was[t] / 2 for t in inside], abs=0.02)
        case "off":
            assert {now[t] for t in inside} == {0.0}
        case "limited":
            rating = make_fleet(2, lights=0, winds=0).panels[0].power_cap
            assert [now[t] for t in inside] == pytest.approx([min(was[t], rating / 2) for t in inside], rel=0.007)
            assert max(now[t] for t in inside) == pytest.approx(rating / 2, rel=0.004)
            assert len({now[t] for t in inside}) > 200  # the instrument goes on
        case "clock_shift":
            claimed = {
                message.event_ms: time_of(json.loads(message.value)["timestamp"])
                for message in sent
                if message.key == b"panel-001"
            }
            behind = {event_ms: event_ms - (claimed[event_ms] or 0) for event_ms in now}
            assert {behind[event_ms] for event_ms in inside} == {1_800_500}
            assert {lag for event_ms, lag in behind.items() if event_ms not in inside} == {0}
            assert len(set(claimed.values())) == len(claimed)
            assert now == was
        case "meter_reset":
            assert now == was
            assert meter[inside[0]] == 0
            assert meter[end_ms] == pytest.approx(meters[end_ms] - meters[inside[0]], abs=0.2)
    if kind in {"drifting", "shaded", "off", "weak", "limited", "scaled"}:
        assert meter[end_ms] < meters[end_ms] - 100


def test_random_faults_hit_the_share_asked_for() -> None:
    fleet, end = make_fleet(50), START + timedelta(days=60)
    faults = random_faults(fleet, START, end, 0.2, seed=4, meter=True)
    assert Counter(fault.topic for fault in faults) == {"panel": 20, "light": 10, "wind": 10}
    assert {fault.kind for fault in faults if fault.topic == "panel"} == {
        "stuck",
        "dropped",
        "drifting",
        "shaded",
        "meter_reset",
        "off",
        "weak",
        "limited",
        "scaled",
        "clock_shift",
    }
    assert len({(fault.topic, fault.element_id) for fault in faults}) == len(faults)
    assert all(START <= fault.start <= fault.end <= end for fault in faults)
    assert faults == random_faults(fleet, START, end, 0.2, seed=4, meter=True)


# -- the command -------------------------------------------------------------------------------------


def test_command_writes_messages_and_truth(tmp_path: Path) -> None:
    file, truth = tmp_path / "messages.jsonl", tmp_path / "truth.json"
    arguments = ["simulate", "run", "--start", "2026-06-01", "--end", "2026-06-01T02:00:00", "--installations", "2"]
    arguments += ["--wind-every", "10", "--faulty", "0.5", "--output", str(file), "--truth", str(truth)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(truth.read_text())
    found = Counter(json.loads(line)[0] for line in file.read_text().splitlines())
    assert {name: topic["produced"] for name, topic in told["topics"].items()} == found
    assert len(told["faults"]) == 4
    assert Truth.read(truth).topics["wind"].produced == found["wind"] > 1400


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ([], "where the messages go"),
        (["--output", "-", "--kafka"], "where the messages go"),
        (["--output", "/nowhere/at/all.jsonl"], "cannot write /nowhere"),
        (["--output", "-", "--end", "2026-01-01"], "is not before"),
    ],
)
def test_command_says_what_is_wrong(extra: list[str], said: str) -> None:
    arguments = ["simulate", "run", "--start", "2026-06-01", "--end", "2026-06-01T00:10:00", *extra]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert said in result.stderr
