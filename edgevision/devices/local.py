"""What this machine is: processor, memory, GPU, Jetson module, installed versions, clocks."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import re
import subprocess
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from edgevision.devices import sysfs
from edgevision.devices.jetson import Jetson, read_jetson
from edgevision.devices.sensors import Clock, Sensors, find_sensors, locked
from edgevision.types import DeviceInfo

_PACKAGES = (
    "edgevision",
    "numpy",
    "onnxruntime",
    "onnx",
    "Pillow",
    "torch",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "cuda-bindings",
    "openvino",
)
# Flags that decide between kernels or quantization schemes; the rest of /proc/cpuinfo is noise.
_FEATURES = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)


@lru_cache(maxsize=1)
def this_machine() -> DeviceInfo:
    """This machine. Read once a process; nothing heavier than ``nvidia-smi`` is started."""
    return machine()


def machine(root: Path = sysfs.ROOT) -> DeviceInfo:
    """As ``this_machine``, read anew, with the processor's or Jetson's name from below ``root``."""
    cpu = read_cpuinfo(sysfs.text(root / "proc/cpuinfo"))
    jetson = read_jetson(root)
    gpu, capability = _gpu()
    return DeviceInfo(
        name=(jetson and jetson.name) or cpu[0] or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=usable_cores(),
        memory_mb=_memory_mb(),
        cpu_features=cpu[1],
        gpu=gpu,
        compute_capability=capability,
    )


def usable_cores() -> int:
    """Cores that this process may run on, fewer than the machine's under taskset or a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name and the features that matter out of the text of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Hardware") or ""
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name, tuple(flag for flag in _FEATURES if flag in flags)


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def environment(root: Path = sysfs.ROOT) -> dict[str, Any]:
    """What a report says about the machine it was measured on, as JSON values.

    Clocks and governors are those of the first core, None where the system hides them; ``load`` is
    the one-minute load average; ``jetson`` is None elsewhere.

    Args:
        root: above the machine's own /proc, /sys and /etc.
    """
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    described = this_machine() if root == sysfs.ROOT else machine(root)
    jetson = read_jetson(root)
    return {
        "device": {**asdict(described), "cpu_features": list(described.cpu_features)},
        "jetson": None if jetson is None else jetson_facts(jetson, find_sensors(root)),
        "python": platform.python_version(),
        "packages": package_versions(),
        "threads_env": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
            if name in os.environ
        },
        "governor": sysfs.word(cpu / "scaling_governor"),
        "clock_mhz": _clock_mhz(root),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def jetson_facts(jetson: Jetson, sensors: Sensors) -> dict[str, Any]:
    """What the Jetson is and does now, as JSON values: MHz, °C, watts."""
    clocks, fan = sensors.read_clocks(), sensors.fan()
    return {
        "name": jetson.name,
        "module": jetson.module,
        "part_number": jetson.part_number,
        "memory_mb": jetson.memory_mb,
        "l4t": jetson.l4t,
        "jetpack": " or ".join(jetson.jetpacks) or None,
        "power_mode": str(jetson.power_mode) if jetson.power_mode else None,
        "clocks_locked": locked(clocks),
        "clocks": {clock.name: _without_name(clock) for clock in clocks},
        "temperatures_c": sensors.temperatures(),
        "throttled_by": list(sensors.throttled_by()),
        "throttle_events_since_boot": sensors.event_counts(),
        "watts": {name: round(value, 3) for name, value in sensors.watts().items()},
        "fan": None if fan is None else asdict(fan),
    }


def _without_name(clock: Clock) -> dict[str, Any]:
    values = asdict(clock)
    del values["name"]
    return values


def _clock_mhz(root: Path) -> float | None:
    khz = sysfs.integer(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if khz is not None:
        return khz / 1000
    text = sysfs.text(root / "proc/cpuinfo")
    found = re.search(r"^cpu MHz\s*:\s*([0-9]{1,9}(\.[0-9]+)?)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def _memory_mb() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def _gpu() -> tuple[str | None, str | None]:
    """Name and compute capability of the first GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return _gpu_from_driver()
    name, _, capability = (done.stdout.splitlines() or [""])[0].rpartition(",")
    if not re.fullmatch(r"\s*\d+\.\d+\s*", capability):
        return _gpu_from_driver()
    return name.strip(), capability.strip()


def _gpu_from_driver() -> tuple[str | None, str | None]:
    """The same from the driver library: a Jetson's nvidia-smi is absent or shows no such column."""
    path = ctypes.util.find_library("cuda")
    if path is None:
        return None, None
    try:
        cuda = ctypes.CDLL(path)
    except OSError:
        return None, None
    device = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None, None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    version = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        version.append(value.value)
    return name.value.decode(errors="replace"), f"{version[0]}.{version[1]}"
