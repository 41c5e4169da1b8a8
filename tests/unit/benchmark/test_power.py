"""The monitor and the measurement of power, on files that change while they are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgevision.benchmark.monitor import TOTAL, Monitor, Watched
from edgevision.benchmark.power import measure_power
from edgevision.devices.sensors import EnergyCounter, Sensors, find_sensors
from tests.unit.devices import jetson_trees as trees
from tests.unit.devices.jetson_trees import chip, write, write_tree

FAST = 0.01
CURRENT = f"{chip(0)}/curr1_input"  # of VDD_IN, at 5 V
GPU = "sys/class/devfreq/17000000.gpu"


def orin(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "orin", trees.ORIN_NANO_6)


def watch(sensors: Sensors, during: Callable[[], None]) -> Watched:
    with Monitor(sensors, interval=FAST) as monitor:
        during()
    return monitor.result()


@contextmanager
def elsewhere(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """``work`` in a thread until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_power_that_another_thread_changes(tmp_path: Path) -> None:
    root = orin(tmp_path)

    def work(stop: threading.Event) -> None:
        write(root, CURRENT, 1000)
        stop.wait(0.3)
        write(root, CURRENT, 3000)
        stop.wait(5)

    with elsewhere(work):
        time.sleep(0.05)
        found = watch(find_sensors(root), lambda: time.sleep(0.5))
    power = found.rails["VDD_IN"]
    assert found.rails[TOTAL] == power
    assert power.peak_w == pytest.approx(15.0)
    assert 7.5 < power.mean_w < 12.5, "half of the time at 5 W and half at 15 W"
    assert found.rails["VDD_SOC"].mean_w == pytest.approx(1.515136)
    assert found.seconds == pytest.approx(0.5, abs=0.2)


def test_a_block_shorter_than_the_interval_has_power_too(tmp_path: Path) -> None:
    with Monitor(find_sensors(orin(tmp_path)), interval=60) as monitor:
        pass
    assert monitor.result().rails[TOTAL].mean_w == pytest.approx(4.9)


def test_a_rail_that_goes_away_takes_the_total_with_it(tmp_path: Path) -> None:
    root = orin(tmp_path)
    sensors = find_sensors(root)
    (root / CURRENT).unlink()
    found = watch(sensors, lambda: time.sleep(3 * FAST))
    assert set(found.rails) == {"VDD_CPU_GPU_CV", "VDD_SOC"}
    assert measure_power({"a": lambda: None}, Sensors(), seconds=0.1) is None
    gone = measure_power({"a": lambda: None}, sensors, seconds=0.1, interval=FAST)
    assert gone is not None
    assert (gone.idle_w, gone.runs) == (None, {})


def test_each_run_has_its_own_power_and_the_idle_one_is_beside(tmp_path: Path) -> None:
    root = orin(tmp_path)
    write(root, CURRENT, 500)
    calls = {"fp32": 0, "int8": 0}

    def run(name: str, milliamperes: int) -> Callable[[], None]:
        def call() -> None:
            write(root, CURRENT, milliamperes)
            calls[name] += 1
            time.sleep(0.002)

        return call

    found = measure_power(
        {"fp32": run("fp32", 3000), "int8": run("int8", 2000)},
        find_sensors(root),
        seconds=1.0,
        images_per_call=4,
        interval=FAST,
    )
    assert found is not None
    assert found.total_of == ("VDD_IN",)
    assert found.idle_w == pytest.approx(2.5)
    for name, watts in (("fp32", 15.0), ("int8", 10.0)):
        power = found.runs[name]
        assert power.mean_w == pytest.approx(watts, rel=0.05)
        assert power.peak_w == pytest.approx(watts, rel=0.05)
        assert 0 < power.images < 4 * calls[name], "the ramp is not counted"
        assert power.images % 4 == 0
        energy = power.mean_w * power.seconds / power.images
        assert power.millijoules_per_image == pytest.approx(1000 * energy)
        assert power.seconds == pytest.approx(2 * 0.75 * 1.0 / 5, rel=0.5)
        assert set(power.rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def rapl(root: Path, energies: dict[str, tuple[str, int]], most: int) -> Path:
    for folder, (name, energy) in energies.items():
        write(root, f"sys/class/powercap/{folder}/name", f"{name}\n")
        write(root, f"sys/class/powercap/{folder}/energy_uj", energy)
        write(root, f"sys/class/powercap/{folder}/max_energy_range_uj", most)
    return root


def test_rapl_domains_and_their_total(tmp_path: Path) -> None:
    domains = {
        "intel-rapl:0": ("package-0", 5),
        "intel-rapl:0:0": ("core", 3),
        "intel-rapl:0:1": ("dram", 1),
        "intel-rapl:1": ("package-1", 5),
        "intel-rapl:1:0": ("dram", 5),
        "intel-rapl:2": ("psys", 50),
        "intel-rapl-mmio:0": ("package-0", 5),
    }
    sensors = find_sensors(rapl(tmp_path, domains, 100))
    assert sensors.total_of == ("package-0", "package-0/dram", "package-1", "package-1/dram")
    assert sensors.counts()["package-0/core"] == 3
    assert sensors.measures_power


def test_a_counter_that_wraps_around() -> None:
    counter = EnergyCounter("package-0", Path("x"), 262_143_328_850)
    assert counter.joules_between(1_000_000, 3_500_000) == 2.5
    assert counter.joules_between(262_143_000_000, 671_150) == pytest.approx(1.0)
    assert counter.joules_between(7, 7) == 0


def test_energy_is_exact_across_many_wraparounds(tmp_path: Path) -> None:
    most, per_call = 150_000, 2000  # microjoules
    used = most - 1000
    root = rapl(tmp_path, {"intel-rapl:0": ("package-0", used)}, most)

    def call() -> None:
        nonlocal used
        used += per_call
        write(root, "sys/class/powercap/intel-rapl:0/energy_uj", used % most)
        time.sleep(0.001)

    found = measure_power({"a": call}, find_sensors(root), seconds=1.2, interval=FAST)
    assert found is not None
    assert used > 2 * most
    assert found.idle_w == 0
    assert found.runs["a"].millijoules_per_image == pytest.approx(2.0, rel=0.03)


def test_hidden_counters_are_no_error(tmp_path: Path) -> None:
    root = rapl(tmp_path, {"intel-rapl:0": ("package-0", 1)}, 10)
    path = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    path.unlink()
    path.symlink_to("/proc/self/mem")
    assert not find_sensors(root).any
    assert not find_sensors(tmp_path / "nothing").any


def test_steady_clocks_and_a_cool_board_give_no_notice(tmp_path: Path) -> None:
    root = orin(tmp_path)
    found = watch(find_sensors(root), lambda: time.sleep(20 * FAST))
    assert found.notices == ()
    assert found.highest_c == 48.25
    assert set(found.clocks) == {"CPU 0-3", "CPU 4-5", "GPU"}
    assert found.clocks["GPU"].mean_mhz == pytest.approx(612)


def test_a_clock_that_falls_under_load_is_told(tmp_path: Path) -> None:
    root = orin(tmp_path)

    def work(stop: threading.Event) -> None:
        for megahertz in (1020, 1020, 800, 510, 510, 510):
            write(root, f"{GPU}/cur_freq", megahertz * 1_000_000)
            stop.wait(0.06)

    sensors = find_sensors(root)
    write(root, f"{GPU}/cur_freq", 1_020_000_000)
    with elsewhere(work):
        found = watch(sensors, lambda: time.sleep(0.36))
    assert found.notices == ("The GPU clock fell from 1020 to 510 MHz.",)
    assert found.clocks["GPU"].lowest_mhz == 510
    assert found.clocks["GPU"].highest_mhz == 1020


def test_an_idle_cluster_may_slow_down(tmp_path: Path) -> None:
    root = orin(tmp_path)
    slow = "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq"

    def during() -> None:
        time.sleep(10 * FAST)
        write(root, slow, 115_000)
        time.sleep(20 * FAST)

    assert watch(find_sensors(root), during).notices == ()


def test_work_may_move_from_cluster_to_cluster(tmp_path: Path) -> None:
    root = orin(tmp_path)
    policy = "sys/devices/system/cpu/cpufreq/policy{}/scaling_cur_freq"

    def move(stop: threading.Event) -> None:
        while not stop.is_set():
            for busy, idle in ((0, 4), (4, 0)):
                write(root, policy.format(busy), 1_728_000)
                write(root, policy.format(idle), 115_000)
                stop.wait(2 * FAST)

    sensors = find_sensors(root)
    with elsewhere(move):
        found = watch(sensors, lambda: time.sleep(30 * FAST))
    assert found.notices == ()
    assert found.clocks["CPU 0-3"].lowest_mhz == 115


def test_a_servers_many_clocks_are_left_alone(tmp_path: Path) -> None:
    for number in range(17):
        policy = f"sys/devices/system/cpu/cpufreq/policy{number}"
        write(tmp_path, f"{policy}/scaling_cur_freq", 2_000_000)
    assert find_sensors(tmp_path).clocks == ()
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy16/scaling_cur_freq").unlink()
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy16").rmdir()
    names = [clock.name for clock in find_sensors(tmp_path).read_clocks()]
    assert names == [f"CPU {number}" for number in range(16)]


def test_what_holds_a_locked_board_back_is_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "agx", trees.AGX_ORIN_6)
    sensors = find_sensors(root)

    def during() -> None:
        time.sleep(3 * FAST)
        write(root, f"{GPU}/cur_freq", 900_000_000)
        time.sleep(3 * FAST)
        write(root, f"{GPU}/cur_freq", 0)  # switched off, which is no clock
        write(root, "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq", 1_400_000)
        write(root, "sys/class/thermal/cooling_device0/cur_state", 1)
        write(root, "sys/class/thermal/cooling_device2/cur_state", 4)  # the fan
        write(root, "sys/class/thermal/thermal_zone1/temp", 99_500)
        write(root, "sys/devices/platform/soctherm-oc-event/hwmon/hwmon2/oc3_event_cnt", 12)

    found = watch(sensors, during)
    limit, clock, heat, supply = found.notices
    assert limit == "The highest CPU 4-7 clock allowed fell from 2201 to 1400 MHz."
    assert clock.startswith("The GPU clock is locked at 1300 MHz and was as low as 900 MHz in ")
    assert heat == "Heat held the machine back: gpu-throttle-alert."
    assert supply.startswith("The supply held the machine back: 12 oc3 events")
    assert found.highest_c == 99.5
    again = watch(sensors, lambda: None)
    assert not any("supply" in notice for notice in again.notices), "only new events count"


def test_the_monitor_ends_with_its_block(tmp_path: Path) -> None:
    before = threading.active_count()
    sensors = find_sensors(orin(tmp_path))
    seen: list[int] = []

    def fail() -> None:
        seen.append(threading.active_count())
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        watch(sensors, fail)
    assert seen == [before + 1]
    assert threading.active_count() == before


def test_without_power_no_rail_is_read(tmp_path: Path) -> None:
    sensors = replace(find_sensors(orin(tmp_path)), rails=())
    with Monitor(sensors, interval=FAST, power=False) as monitor:
        time.sleep(2 * FAST)
    assert monitor.result().rails == {}
