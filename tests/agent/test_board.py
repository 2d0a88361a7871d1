"""The board's health is read where the kernel tells it, and its absence is no error."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.daemons import running
from driftpost_agent.board import SENSORS, read_board
from driftpost_agent.board_log import HOT_C, INTERVAL_MS, INTERVALS, BoardLog
from driftpost_sync.messages import BoardBody
from mosquitto import needs_mosquitto, running_mosquitto
from wire import World


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "62310\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50004\n")
    for cpu, clock in enumerate((600000, 1200000, 600000, 600000)):
        put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", str(clock))
        put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", "1500000")
    put(tmp_path, "proc/loadavg", "1.20 0.80 0.50 1/200 4242\n")
    put(tmp_path, "proc/meminfo", "MemTotal:  3884000 kB\nMemFree: 100 kB\nMemAvailable:  2048000 kB\n")
    return tmp_path


def test_a_raspberry_pi_tells_heat_throttling_voltage_clock_load_and_memory(pi: Path) -> None:
    reading = read_board(pi, pi)
    assert list(reading) == list(SENSORS)
    assert reading["temperature"] == pytest.approx(62.31)
    assert reading["throttled"] == 1
    assert reading["undervoltage"] == 1
    assert reading["clock_share"] == pytest.approx(0.8)
    assert reading["load"] > 0
    assert reading["memory_free"] == 2000
    assert reading["disk_free"] > 0


def test_the_firmwares_flags_stand_in_for_a_missing_voltage_sensor(pi: Path) -> None:
    (pi / "sys/class/hwmon/hwmon1/name").unlink()
    assert read_board(pi, pi)["undervoltage"] == 0
    put(pi, "sys/devices/platform/soc/soc:firmware/get_throttled", "50001")
    reading = read_board(pi, pi)
    assert (reading["undervoltage"], reading["throttled"]) == (1, 0)


def test_on_a_jetson_a_cooling_device_that_acts_means_throttling(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "45000")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "51500")
    put(tmp_path, "sys/class/thermal/thermal_zone2/temp", "-256000")  # a zone whose sensor is off
    put(tmp_path, "sys/class/thermal/cooling_device0/type", "pwm-fan")
    put(tmp_path, "sys/class/thermal/cooling_device0/cur_state", "3")
    put(tmp_path, "sys/class/thermal/cooling_device1/type", "cpufreq-cpu0")
    put(tmp_path, "sys/class/thermal/cooling_device1/cur_state", "0")
    reading = read_board(tmp_path, tmp_path)
    assert reading["temperature"] == 51.5
    assert reading["throttled"] == 0
    put(tmp_path, "sys/class/thermal/cooling_device1/cur_state", "2")
    assert read_board(tmp_path, tmp_path)["throttled"] == 1


def test_a_machine_without_sensors_has_fewer_streams_and_no_error(tmp_path: Path) -> None:
    assert set(read_board(tmp_path, tmp_path)) == {"disk_free"}
    assert read_board(tmp_path / "gone", tmp_path) == {}


@pytest.mark.parametrize("text", ["", "hot", "99999999999999999999", "4 5", "\x00" * 4096])
def test_what_makes_no_sense_is_left_out(pi: Path, text: str) -> None:
    for path in (
        "sys/class/thermal/thermal_zone0/temp",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "proc/loadavg",
    ):
        put(pi, path, text)
    put(pi, "proc/meminfo", f"MemAvailable: {text}\n")
    reading = read_board(pi, pi)
    assert "temperature" not in reading
    assert reading["clock_share"] == pytest.approx(0.8)


def test_this_very_machine_can_be_read() -> None:
    assert {"load", "memory_free", "disk_free"} <= set(read_board(Path("/tmp")))


def test_a_report_has_the_extremes_since_the_one_before() -> None:
    log = BoardLog(0)
    for minute, heat in enumerate((50.0, 70.0, 60.0)):
        log.add({"temperature": heat, "made_up": 1.0, "load": float("nan")}, minute * 60_000)
    span, report = log.report(180_000)
    assert span == 180_000
    assert report == {"temperature": (60.0, 50.0, 60.0, 70.0)}
    assert log.report(180_000) == (0, {})


def test_a_day_is_remembered_in_quarters_of_an_hour_and_no_more() -> None:
    log = BoardLog(0)
    for quarter in range(INTERVALS + 20):
        log.add({"temperature": float(quarter)}, (quarter + 1) * INTERVAL_MS)
    facts = log.facts()["temperature"]
    assert facts["unit"] == "degC"
    assert len(facts["course"]) <= INTERVALS + 1
    assert facts["course"][-1] == INTERVALS + 19


def test_what_a_person_must_mend_on_the_board_is_said() -> None:
    log = BoardLog(0)
    log.add({"undervoltage": 1.0, "throttled": 1.0, "temperature": 84.0}, 0)
    voltage, heat = log.problems()
    assert "power supply" in voltage
    assert "84 degC" in heat
    log.add({"undervoltage": 0.0, "throttled": 0.0, "temperature": HOT_C}, 1)
    assert "about to be slowed down" in log.problems()[0]
    log.add({"temperature": 40.0}, 2)
    assert log.problems() == ()


@needs_mosquitto
def test_the_aggregator_is_told_how_the_board_fares_in_few_bytes(
    pi: Path, tmp_path: Path, bundles: Path
) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto())
        aggregator = World(broker, stack).aggregator()
        agent = stack.enter_context(
            running(
                tmp_path,
                bundles / "mlp.bundle",
                bundles / "team.pub",
                sync={"enabled": True},
                mqtt={"port": broker.port},
                board={"seconds": 1.0, "report_seconds": 1.0, "root": pi},
            )
        )

        def reports() -> list[bytes]:
            items = [item for envelope in list(aggregator.envelopes) for item in envelope.items]
            return [item.body for item in items if item.kind == "board"]

        agent.wait(lambda: bool(reports()), "the first report")
        body = BoardBody.from_bytes(reports()[0])
        assert len(reports()[0]) < 400
        assert set(body.readings) == set(SENSORS)
        assert body.readings["temperature"] == (62.31,) * 4
        document = agent.status()
        assert document["board"]["undervoltage"]["value"] == 1
        assert document["health"]["state"] == "degraded"
        assert any("supply voltage" in reason for reason in document["health"]["reasons"])
        agent.wait(lambda: agent.status()["findings"]["standing"] == 1, "the finding stands")
        assert agent.status()["findings"]["latest"][0]["kind"] == "board"
        put(pi, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
        put(pi, "sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
        agent.wait(lambda: agent.status()["findings"]["standing"] == 0, "the finding is cleared")
        assert agent.status()["health"]["state"] == "ok"
