from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevision.devices import environment
from edgevision.devices.jetson import (
    Jetson,
    PowerMode,
    advice,
    highest,
    jetpack_table,
    jetpacks_of,
    l4t_release,
    read_jetson,
)
from edgevision.devices.local import machine
from edgevision.devices.sensors import Clock, Fan, find_sensors, locked
from edgevision.pipeline.survey import jetson_status, target_status
from edgevision.targets import load_target, target_names
from tests.unit.devices import jetson_trees as trees
from tests.unit.devices.jetson_trees import Board, write, write_tree

JETSONS = [name for name in target_names() if load_target(name).device_model is not None]
# Board; name, target, power mode, total watts, whether clocks are locked.
BOARDS: list[tuple[Board, str, str, str, float, bool]] = [
    (trees.ORIN_NANO_5, "Orin Nano 8GB", "orin-nano@5.1", "15W (mode 0)", 4.9, False),
    (trees.ORIN_NANO_6, "Orin Nano 8GB", "orin-nano@6.2", "15W (mode 0)", 4.9, False),
    (trees.ORIN_NANO_4, "Orin Nano 4GB", "orin-nano@6.2", "15W (mode 0)", 4.9, False),
    (trees.ORIN_NANO_MISNAMED, "Orin Nano 8GB", "orin-nano@6.2", "15W (mode 0)", 4.9, False),
    (trees.ORIN_NX_16, "Orin NX 16GB", "orin-nx@6.1", "MAXN (mode 0)", 4.9, False),
    (trees.ORIN_NX_8_MISNAMED, "Orin NX 8GB", "orin-nx@6.1", "MAXN (mode 0)", 4.9, False),
    (trees.AGX_ORIN_5, "AGX Orin 64GB", "agx-orin@5.1", "MODE_50W (mode 3)", 7.496, False),
    (trees.AGX_ORIN_6, "AGX Orin 64GB", "agx-orin@6.0", "MAXN (mode 0)", 7.496, True),
    (trees.XAVIER_NX, "Xavier NX 8GB", "xavier-nx@5.1", "MODE_15W_6CORE (mode 2)", 5.5792, False),
    (trees.AGX_XAVIER, "AGX Xavier 32GB", "agx-xavier@5.1", "MODE_30W_6CORE (mode 4)", 6.37, False),
    (trees.THOR, "Thor 128GB", "thor@7.0", "120W (mode 1)", 23.0, False),
]
IDS = [f"{name}-{number}" for number, (_, name, *_) in enumerate(BOARDS)]


@pytest.mark.parametrize(("board", "name", "target", "mode", "watts", "fixed"), BOARDS, ids=IDS)
def test_boards(
    tmp_path: Path, board: Board, name: str, target: str, mode: str, watts: float, fixed: bool
) -> None:
    root = write_tree(tmp_path, board)
    jetson, sensors = read_jetson(root), find_sensors(root)
    assert jetson is not None
    assert jetson.name == f"NVIDIA Jetson {name}"
    assert f"NVIDIA Jetson {jetson.module}" in jetson.name
    assert jetson.memory_mb == board.memory_kb // 1024
    assert jetson.l4t == board.release.replace(" ", ".")
    assert str(jetson.power_mode) == mode
    assert [(found.id, found.name) for found in jetson.power_modes] == list(board.modes)
    read = sensors.watts()
    assert sum(read[rail] for rail in sensors.total_of) == pytest.approx(watts)
    assert not {"NC", "sum of shunt voltages"} & set(read)
    assert locked(sensors.read_clocks()) is fixed
    status = jetson_status(root)
    assert status is not None
    assert status.target == f"jetson-{target}"


@pytest.mark.parametrize(("board", "name", "target", "mode", "watts", "fixed"), BOARDS, ids=IDS)
def test_a_board_is_its_own_target_and_no_other(
    tmp_path: Path, board: Board, name: str, target: str, mode: str, watts: float, fixed: bool
) -> None:
    here = machine(write_tree(tmp_path, board))
    family = target.partition("@")[0]
    for one in JETSONS:
        newest = load_target(one).jetpacks[-1].version
        reason = target_status(load_target(f"{one}@{newest}"), here).builds.reason
        if newest == "5.1":
            assert "Python 3.8" in reason
        else:
            assert ("itself" in reason) == (one != f"jetson-{family}"), one


def test_rails_clocks_heat_and_fan_of_an_orin_nano(tmp_path: Path) -> None:
    root = write_tree(tmp_path, trees.ORIN_NANO_6)
    sensors = find_sensors(root)
    assert sensors.total_of == ("VDD_IN",)
    watts = {"VDD_IN": 4.9, "VDD_CPU_GPU_CV": 1.19808, "VDD_SOC": 1.515136}
    assert sensors.watts() == pytest.approx(watts)
    assert sensors.read_clocks() == (
        Clock("CPU 0-3", 729, 115, 1728, "schedutil"),
        Clock("CPU 4-5", 1728, 115, 1728, "schedutil"),
        Clock("GPU", 612, 306, 1020, "nvhost_podgov"),
    )
    assert sensors.temperatures() == {"cpu-thermal": 47.5, "tj-thermal": 48.25}
    assert sensors.throttled_by() == ()
    assert sensors.event_counts() == {"oc1": 0, "oc2": 0, "oc3": 0}
    assert sensors.fan() == Fan(20.0, 1786)
    write(root, "sys/kernel/debug/bpmp/debug/clk/emc/rate", 2_133_000_000)
    assert find_sensors(root).read_clocks()[-1] == Clock("EMC", 2133)
    write(root, "sys/class/thermal/cooling_device0/cur_state", 1)
    assert sensors.throttled_by() == ("gpu-throttle-alert",)


def test_totals_count_no_rail_twice(tmp_path: Path) -> None:
    orin = find_sensors(write_tree(tmp_path / "orin", trees.AGX_ORIN_6))
    assert orin.total_of == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert orin.watts()["VDDQ_VDD2_1V8AO"] == pytest.approx(0.59616)
    xavier = find_sensors(write_tree(tmp_path / "xavier", trees.AGX_XAVIER))
    assert xavier.total_of == ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
    thor = find_sensors(write_tree(tmp_path / "thor", trees.THOR))
    assert thor.total_of == ("VIN",)
    assert thor.watts()["VDD_GPU"] == pytest.approx(-0.384), "an offset is no garbage"
    assert [clock.mhz for clock in thor.read_clocks()] == [2601, 2601, 0]


def test_without_the_hwmon_class_the_driver_leads_to_the_rails(tmp_path: Path) -> None:
    root = write_tree(tmp_path, trees.AGX_ORIN_5)
    before = find_sensors(root).watts()
    shutil.rmtree(root / "sys/class/hwmon")
    for number in (0, 1):
        device = (root / trees.chip(number)).parent.parent
        trees.link(root, f"sys/bus/i2c/drivers/ina3221/{device.name}", device)
    after = find_sensors(root)
    assert after.watts() == before
    assert after.total_of == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def test_a_part_number_of_a_shared_board_is_needed(tmp_path: Path) -> None:
    unknown = replace(trees.ORIN_NX_16, compatible=("nvidia,p3768-0000+p3767-0077",))
    jetson = read_jetson(write_tree(tmp_path / "a", unknown))
    assert jetson is not None
    assert (jetson.module, jetson.part_number) == ("Orin NX", None), "the model decides"
    silent = replace(unknown, model="Some Carrier", dts=trees.ORIN_NANO_5.dts)
    jetson = read_jetson(write_tree(tmp_path / "b", silent))
    assert jetson is not None
    assert jetson.module is None, "one device tree file serves Orin NX and Nano"
    assert jetson.name == "Some Carrier"
    by_file = replace(silent, dts="tegra194-p3668-all-p3509-0000.dts tegra194-p3668-0001.dts")
    jetson = read_jetson(write_tree(tmp_path / "c", by_file))
    assert jetson is not None
    assert jetson.module == "Xavier NX"
    both = replace(silent, model="NVIDIA Orin NX/Orin Nano carrier")
    jetson = read_jetson(write_tree(tmp_path / "d", both))
    assert jetson is not None
    assert jetson.module is None


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    assert read_jetson(tmp_path) is None
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    write(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert read_jetson(tmp_path) is None
    assert jetson_status(tmp_path) is None


@pytest.mark.parametrize(
    ("l4t", "jetpacks"),
    [
        ("35.1.0", ()),
        ("35.2.1", ("5.1",)),
        ("35.6.2", ("5.1",)),
        ("36.2.0", ()),
        ("36.3.0", ("6.0",)),
        ("36.4.0", ("6.1",)),
        ("36.4.2", ("6.1",)),
        ("36.4.3", ("6.2",)),
        ("36.4.7", ("6.2",)),
        ("36.4", ("6.1", "6.2")),
        ("36.5.0", ("6.2",)),
        ("36.9.0", ()),
        ("38.2.0", ("7.0",)),
        ("38.4.0", ("7.1",)),
        ("39.2.1", ("7.2",)),
        ("32.7.1", ()),
        ("40.1", ()),
        ("36", ()),
    ],
)
def test_jetpack_of_l4t(l4t: str, jetpacks: tuple[str, ...]) -> None:
    assert jetpacks_of(l4t) == jetpacks


def test_an_ambiguous_release_says_so(tmp_path: Path) -> None:
    rough = Jetson("x", l4t="36.4", jetpacks=jetpacks_of("36.4"))
    assert rough.jetpack is None
    assert rough.release == "L4T 36.4, JetPack 6.1 or 6.2"
    assert Jetson("x", l4t="36.9", jetpacks=()).release == "L4T 36.9, of no known JetPack"
    assert Jetson("x").release == "L4T unknown"
    root = write_tree(tmp_path, replace(trees.ORIN_NANO_6, release="36 4"))
    status = jetson_status(root)
    assert status is not None
    assert status.target == "jetson-orin-nano", "no JetPack is guessed"
    assert "JetPack 6.1 or 6.2" in status.lines[0]


def test_every_jetpack_of_a_target_is_known_by_its_releases() -> None:
    for version, facts in jetpack_table().items():
        for release in facts["l4t"]:
            full = release if release.count(".") == 2 else f"{release}.0"
            assert jetpacks_of(full) == (version,)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "36.4.3"),
        ("# R35 (release), REVISION: 5.0", "35.5.0"),
        ("# R39 (release), REVISION: 2.1, GCID: 1\n# KERNEL_VARIANT: oot", "39.2.1"),
        ("", None),
        ("Ubuntu", None),
    ],
)
def test_l4t_release(tmp_path: Path, text: str, release: str | None) -> None:
    write(tmp_path, "etc/nv_tegra_release", text)
    assert l4t_release(tmp_path) == release


def test_l4t_from_the_package_where_its_file_is_missing(tmp_path: Path) -> None:
    root = write_tree(tmp_path, trees.ORIN_NANO_6)
    (root / "etc/nv_tegra_release").unlink()
    stanzas = [
        "Package: nvidia-l4t-core-dummy\nVersion: 1.2.3",
        "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.4-20250616",
        "Package: zlib1g\nVersion: 9.9.9",
    ]
    write(root, "var/lib/dpkg/status", "\n\n".join(stanzas) + "\n")
    assert l4t_release(root) == "36.4.4"
    write(root, "var/lib/dpkg/status", "Package: nvidia-l4t-core\n\nPackage: b\nVersion: 1.2\n")
    assert l4t_release(root) is None, "another package's version"


@pytest.mark.parametrize(
    ("board", "best"),
    [
        (trees.ORIN_NANO_5, "15W"),
        (trees.ORIN_NANO_6, "MAXN_SUPER"),
        (trees.XAVIER_NX, "MODE_20W_6CORE"),
        (trees.AGX_XAVIER, "MAXN"),
        (replace(trees.AGX_XAVIER, modes=trees.AGX_XAVIER.modes[2:]), "MODE_30W_ALL"),
        (trees.THOR, "MAXN"),
        (replace(trees.THOR, modes=((0, "MINE"), (1, "YOURS"))), None),
    ],
)
def test_the_highest_mode_is_found_by_name(tmp_path: Path, board: Board, best: str | None) -> None:
    jetson = read_jetson(write_tree(tmp_path, board))
    assert jetson is not None
    found = highest(jetson.power_modes)
    assert (found and found.name) == best


def test_what_makes_figures_worse_is_told_with_its_command(tmp_path: Path) -> None:
    status = jetson_status(write_tree(tmp_path / "nano", trees.ORIN_NANO_6))
    assert status is not None
    assert status.lines[0] == (
        "NVIDIA Jetson Orin Nano 8GB (p3767-0005), L4T 36.4.3, JetPack 6.2: "
        "target jetson-orin-nano@6.2"
    )
    assert status.lines[1] == (
        "Power mode 15W (mode 0); CPU 0-3 115 to 1728 MHz; CPU 4-5 115 to 1728 MHz; "
        "GPU 306 to 1020 MHz; 48 °C (tj-thermal); 4.9 W (VDD_IN)"
    )
    mode, clocks = status.advice
    assert "15W (mode 0); the highest is MAXN_SUPER" in mode
    assert mode.endswith("sudo nvpmodel -m 2")
    assert clocks.endswith("sudo jetson_clocks")
    best = jetson_status(write_tree(tmp_path / "orin", trees.AGX_ORIN_6))
    assert best is not None
    assert best.advice == ()
    assert "GPU locked at 1300 MHz" in best.lines[1]
    unknown = Jetson("x", power_mode=PowerMode(7, None), power_modes=(PowerMode(0, "MAXN"),))
    assert advice(unknown, None) == (), "a mode that is not listed is not called lower"


def test_the_mode_is_asked_for_only_where_no_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevision.devices import jetson as module

    root = write_tree(tmp_path / "tree", trees.ORIN_NANO_6)
    program = write(tmp_path, "nvpmodel", "#!/bin/sh\necho 'NV Power Mode: 25W'\necho 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    (root / "var/lib/nvpmodel/status").unlink()
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.power_mode is None, "a tree of files is not this machine"
    monkeypatch.setattr(module.sysfs, "ROOT", root)
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.power_mode == PowerMode(1, "25W")
    write(root, "var/lib/nvpmodel/status", "pmode:0002")
    monkeypatch.setattr(subprocess, "run", None)
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.power_mode == PowerMode(2, "MAXN_SUPER")


def test_the_environment_of_a_report_has_it_all(tmp_path: Path) -> None:
    root = write_tree(tmp_path, trees.ORIN_NANO_6)
    found = json.loads(json.dumps(environment(root), allow_nan=False))
    assert found["device"]["name"] == "NVIDIA Jetson Orin Nano 8GB"
    assert found["governor"] == "schedutil"
    assert found["clock_mhz"] == 729
    jetson = found["jetson"]
    assert (jetson["l4t"], jetson["jetpack"], jetson["memory_mb"]) == ("36.4.3", "6.2", 7443)
    assert jetson["power_mode"] == "15W (mode 0)"
    assert jetson["clocks_locked"] is False
    assert jetson["clocks"]["GPU"]["high_mhz"] == 1020
    assert jetson["temperatures_c"]["tj-thermal"] == 48.25
    assert jetson["watts"]["VDD_IN"] == 4.9
    assert environment(tmp_path / "nothing")["jetson"] is None


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _number(path: Path) -> None:
    path.write_text("-" + "9" * 5000, encoding="utf-8")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"< POWER_MODEL ID=1 NAME=A >\n" * 1000)
        file.truncate(1 << 40)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to("/proc/self/mem")  # opens, and fails to be read, for the superuser too


def _missing(path: Path) -> None:
    path.unlink()


HOSTILE = [_garbage, _empty, _number, _huge, _folder, _loop, _pipe, _unreadable, _missing]


def _read_all(root: Path) -> dict[str, Any]:
    values = environment(root)
    json.dumps(values, allow_nan=False).encode()
    found = values["jetson"]
    return found if isinstance(found, dict) else {}


@pytest.mark.parametrize("change", HOSTILE)
def test_no_file_can_break_the_reading(
    tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevision.devices.local._gpu", lambda: (None, None))  # a program a call
    board = trees.THOR if change in (_garbage, _unreadable) else trees.ORIN_NANO_5
    root = write_tree(tmp_path / "tree", board)
    whole = _read_all(root)
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    for path in files:
        content = path.read_bytes()
        change(path)
        found = _read_all(root)
        assert found.keys() == whole.keys() or not found
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert _read_all(root) == whole, "nothing is left of the changes"
    for path in files:
        change(path)
    assert _read_all(root).get("power_mode") is None
    jetson_status(root)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_loops_of_folders(tmp_path: Path, depth: int) -> None:
    root = write_tree(tmp_path, trees.ORIN_NANO_5)
    for folder in ("sys/class/hwmon", "sys/class/thermal", "sys/class/devfreq", "proc/device-tree"):
        shutil.rmtree(root / folder)
        (root / folder).symlink_to(root / Path(*Path(folder).parts[:depth]))
    _read_all(root)
