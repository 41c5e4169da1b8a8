"""Writes the files of /proc, /sys, /etc and /var by which a Jetson tells what it is.

Texts are those that the boards show: ``/sys/class/hwmon`` holds links into ``/sys/devices``, device
tree strings end in NUL, thermal zones of units that are off cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

GIB = 1 << 20  # in kB


@dataclass(frozen=True)
class Board:
    """What a tree is written from; ``rails`` are chips of (label, mV, mA) a channel."""

    model: str
    compatible: tuple[str, ...]
    memory_kb: int
    release: str  # "36 4.3"
    rails: tuple[tuple[tuple[str, int, int], ...], ...]
    gpu: tuple[str, int, int, int]  # devfreq folder; lowest, current, highest MHz
    clusters: tuple[tuple[str, int, int, int], ...]  # cores; lowest, current, highest MHz
    modes: tuple[tuple[int, str], ...]
    mode: int
    dts: str = ""
    vin_microwatts: int | None = None
    zones: tuple[tuple[str, int], ...] = (("cpu-thermal", 47_500), ("tj-thermal", 48_250))
    governor: str = "schedutil"


NC = ("NC", 0, 0)
ORIN_NANO_RAILS = ((("VDD_IN", 5000, 980), ("VDD_CPU_GPU_CV", 4992, 240), ("VDD_SOC", 4984, 304)),)
AGX_ORIN_RAILS = (
    (("VDD_GPU_SOC", 20_000, 160), ("VDD_CPU_CV", 19_900, 40), ("VIN_SYS_5V0", 5000, 700)),
    (NC, ("VDDQ_VDD2_1V8AO", 4968, 120), NC),
)

ORIN_NANO_5 = Board(
    model="NVIDIA Orin Nano Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"),
    memory_kb=7_621_644,
    release="35 4.1",
    rails=ORIN_NANO_RAILS,
    gpu=("17000000.ga10b", 306, 306, 624),
    clusters=(("0 1 2 3", 115, 729, 1510), ("4 5", 115, 1510, 1510)),
    modes=((0, "15W"), (1, "7W")),
    mode=0,
    dts="/dvs/git/kernel-dts/tegra234-p3767-0003-p3768-0000-a0.dts",
)
ORIN_NANO_6 = replace(
    ORIN_NANO_5,
    model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    release="36 4.3",
    gpu=("17000000.gpu", 306, 612, 1020),
    clusters=(("0 1 2 3", 115, 729, 1728), ("4 5", 115, 1728, 1728)),
    modes=((0, "15W"), (1, "25W"), (2, "MAXN_SUPER"), (3, "7W")),
    dts="",
)
ORIN_NX_16 = replace(
    ORIN_NANO_5,
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    compatible=("nvidia,p3509-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
    memory_kb=15_957_224,
    release="36 4.0",
    gpu=("17000000.gpu", 306, 918, 918),
    clusters=(("0 1 2 3", 1984, 1984, 1984), ("4 5 6 7", 1984, 1984, 1984)),
    modes=((0, "MAXN"), (1, "10W"), (2, "15W"), (3, "25W")),
    dts="",
)
# A carrier whose maker's image calls every module by the name of one.
ORIN_NX_8_MISNAMED = replace(
    ORIN_NX_16,
    model="NVIDIA Orin Nano Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0001", "nvidia,p3767-0001", "nvidia,tegra234"),
    memory_kb=7_621_644,
)
ORIN_NANO_MISNAMED = replace(
    ORIN_NANO_6,
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
    compatible=("nvidia,p3768-0000+p3767-0003-super", "nvidia,p3767-0003"),
)
ORIN_NANO_4 = replace(
    ORIN_NANO_6,
    compatible=("nvidia,p3768-0000+p3767-0004", "nvidia,p3767-0004", "nvidia,tegra234"),
    memory_kb=3_600_000,
)
AGX_ORIN_5 = Board(
    model="Jetson AGX Orin Developer Kit",
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    memory_kb=64_287_036,
    release="35 3.1",
    rails=AGX_ORIN_RAILS,
    gpu=("17000000.ga10b", 306, 306, 1300),
    clusters=tuple((cores, 729, 2201, 2201) for cores in ("0 1 2 3", "4 5 6 7", "8 9 10 11")),
    modes=((0, "MAXN"), (1, "MODE_15W"), (2, "MODE_30W"), (3, "MODE_50W")),
    mode=3,
)
AGX_ORIN_6 = replace(
    AGX_ORIN_5,
    model="NVIDIA Jetson AGX Orin Developer Kit",
    release="36 3.0",
    gpu=("17000000.gpu", 1300, 1300, 1300),
    clusters=tuple((cores, 2201, 2201, 2201) for cores in ("0 1 2 3", "4 5 6 7", "8 9 10 11")),
    mode=0,
)
XAVIER_NX = Board(
    model="NVIDIA Jetson Xavier NX Developer Kit",
    compatible=("nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"),
    memory_kb=7_034_000,
    release="35 4.1",
    rails=((("VDD_IN", 5072, 1100), ("VDD_CPU_GPU_CV", 5056, 320), ("VDD_SOC", 5064, 260)),),
    gpu=("17000000.gv11b", 114, 1109, 1109),
    clusters=(("0 1", 1190, 1420, 1420), ("2 3", 1190, 1420, 1420), ("4 5", 1190, 1420, 1420)),
    modes=(
        *((0, "MODE_15W_2CORE"), (1, "MODE_15W_4CORE"), (2, "MODE_15W_6CORE")),
        *((3, "MODE_10W_2CORE"), (4, "MODE_10W_4CORE"), (5, "MODE_10W_DESKTOP")),
        *((6, "MODE_20W_2CORE"), (7, "MODE_20W_4CORE"), (8, "MODE_20W_6CORE")),
    ),
    mode=2,
    zones=(("CPU-therm", 41_000), ("GPU-therm", 42_500), ("PMIC-Die", 100_000)),
)
AGX_XAVIER = replace(
    XAVIER_NX,
    model="Jetson-AGX",
    compatible=("nvidia,p2972-0000", "nvidia,tegra194"),
    memory_kb=31_200_000,
    release="35 2.1",
    rails=(
        (("GPU", 19_000, 40), ("CPU", 19_000, 60), ("SOC", 19_000, 100)),
        (("CV", 19_000, 0), ("VDDRQ", 19_000, 30), ("SYS5V", 5000, 400)),
    ),
    modes=(
        (0, "MAXN"),
        (1, "MODE_10W"),
        (2, "MODE_15W"),
        (3, "MODE_30W_ALL"),
        (4, "MODE_30W_6CORE"),
    ),
    mode=4,
)
THOR = Board(
    model="NVIDIA Jetson AGX Thor Developer Kit",
    compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
    memory_kb=128_825_804,
    release="38 2.0",
    rails=(
        (("VDD_GPU", 12_000, -32), ("VDD_CPU_SOC_MSS", 12_000, 540), ("VIN_SYS_5V0", 5000, 1300)),
    ),
    gpu=("gpu-gpc-0", 315, 0, 1575),  # switched off
    clusters=(("0 1", 972, 2601, 2601), ("2 3", 972, 2601, 2601)),
    modes=((0, "MAXN"), (1, "120W"), (2, "90W"), (3, "70W")),
    mode=1,
    vin_microwatts=23_000_000,
    zones=(("cpu-thermal", 53_700), ("tj-thermal", 55_100)),
)


def write(root: Path, name: str, content: str | int) -> Path:
    """A file below ``root``, put there in one step as the kernel's files change."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(content if isinstance(content, str) else f"{content}\n", encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105
    return path


def link(root: Path, name: str, target: Path) -> None:
    """A relative symbolic link below ``root``."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def write_tree(root: Path, board: Board) -> Path:
    """The whole tree."""
    write(root, "proc/device-tree/model", board.model + "\0")
    write(root, "proc/device-tree/compatible", "".join(f"{one}\0" for one in board.compatible))
    if board.dts:
        write(root, "proc/device-tree/nvidia,dtsfilename", board.dts + "\0")
    write(root, "proc/meminfo", f"MemTotal:       {board.memory_kb} kB\nMemFree:  1 kB\n")
    write(root, "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    major, revision = board.release.split()
    write(
        root,
        "etc/nv_tegra_release",
        f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64\n",
    )
    lines = "".join(
        f"# comment\n< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n\n"
        for number, name in board.modes
    )
    write(root, "etc/nvpmodel/nvpmodel_board.conf", lines + "< PM_CONFIG DEFAULT=0 >\n")
    link(root, "etc/nvpmodel.conf", root / "etc/nvpmodel/nvpmodel_board.conf")
    write(root, "var/lib/nvpmodel/status", f"pmode:{board.mode:04} fmode:fan_mode_quiet\n")
    _write_hwmon(root, board)
    _write_clocks(root, board)
    thermal = "sys/class/thermal"
    for number, (name, millidegrees) in enumerate((*board.zones, ("cv0-thermal", None))):
        write(root, f"{thermal}/thermal_zone{number}/type", f"{name}\n")
        if millidegrees is not None:
            write(root, f"{thermal}/thermal_zone{number}/temp", millidegrees)
    for number, name in enumerate(("gpu-throttle-alert", f"devfreq-{board.gpu[0]}", "pwm-fan")):
        write(root, f"{thermal}/cooling_device{number}/type", f"{name}\n")
        write(root, f"{thermal}/cooling_device{number}/cur_state", 2 * (name == "pwm-fan"))
    return root


def chip(number: int) -> str:
    """Where the files of an INA3221 lie."""
    return f"sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-004{number}/hwmon/hwmon{number + 3}"


def _write_hwmon(root: Path, board: Board) -> None:
    def add(folder: str, name: str, files: Sequence[tuple[str, str | int]]) -> None:
        write(root, f"{folder}/name", f"{name}\n")
        for file, content in files:
            write(root, f"{folder}/{file}", content)
        link(root, f"sys/class/hwmon/{Path(folder).name}", root / folder)

    for number, channels in enumerate(board.rails):
        files: list[tuple[str, str | int]] = [("in7_label", "sum of shunt voltages\n")]
        files += [("in7_input", 40_000), ("curr4_input", 9000)]
        for channel, (label, volts, amperes) in enumerate(channels, start=1):
            files.append((f"in{channel}_label", f"{label}\n"))
            files.append((f"in{channel}_input", volts))
            files.append((f"curr{channel}_input", amperes))
        add(chip(number), "ina3221", files)
    if board.vin_microwatts is not None:
        vin = [("in0_input", "1"), ("power1_input", board.vin_microwatts)]
        add("sys/devices/platform/i2c-2/2-0044/hwmon/hwmon12", "ina238", vin)
    add("sys/devices/platform/pwm-fan/hwmon/hwmon0", "pwmfan", [("pwm1", 51)])
    add("sys/devices/platform/tach/hwmon/hwmon1", "pwm_tach", [("rpm", 1786)])
    counts = [(f"oc{number}_event_cnt", 0) for number in (1, 2, 3)]
    add("sys/devices/platform/soctherm-oc-event/hwmon/hwmon2", "soctherm_oc", counts)


def _write_clocks(root: Path, board: Board) -> None:
    for cores, low, current, high in board.clusters:
        policy = f"sys/devices/system/cpu/cpufreq/policy{cores.split()[0]}"
        write(root, f"{policy}/affected_cpus", f"{cores}\n")
        write(root, f"{policy}/scaling_governor", f"{board.governor}\n")
        for file, mhz in (("min", low), ("cur", current), ("max", high)):
            write(root, f"{policy}/scaling_{file}_freq", 1000 * mhz)
    first = root / "sys/devices/system/cpu/cpufreq/policy0"
    link(root, "sys/devices/system/cpu/cpu0/cpufreq", first)
    folder, low, current, high = board.gpu
    write(root, f"sys/class/devfreq/{folder}/governor", "nvhost_podgov\n")
    for file, mhz in (("min", low), ("cur", current), ("max", high)):
        write(root, f"sys/class/devfreq/{folder}/{file}_freq", 1_000_000 * mhz)
    write(root, "sys/class/devfreq/15340000.vic/cur_freq", 115_200_000)
