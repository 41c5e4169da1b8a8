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

from edgevision.types import DeviceInfo

_PACKAGES = (
    "edgevision",
    "numpy",
    "onnxruntime",
    "onnx",
    "Pillow",
    "torch",
    "tensorrt",
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
    cpu = read_cpuinfo(_text(Path("/proc/cpuinfo")))
    module = jetson_module()
    gpu, capability = _gpu()
    return DeviceInfo(
        name=module or cpu[0] or platform.processor() or platform.machine(),
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


def jetson_module() -> str | None:
    """The board's own name on a Jetson, e.g. "NVIDIA Jetson Orin Nano Developer Kit"."""
    model = _text(Path("/proc/device-tree/model")).strip("\0 \n")
    return model if "jetson" in model.lower() else None


def jetson_l4t(text: str | None = None) -> str | None:
    """L4T release, e.g. "36.4", out of ``/etc/nv_tegra_release``; None where there is none."""
    text = _text(Path("/etc/nv_tegra_release")) if text is None else text
    found = re.search(r"# R(\d+) \(release\), REVISION: (\d+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, Any]:
    """What a report says about the machine it was measured on, as JSON values.

    Clocks and governors are those of the first core, None where the system hides them; ``load`` is
    the one-minute load average.
    """
    cpu = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    return {
        "device": {**asdict(this_machine()), "cpu_features": list(this_machine().cpu_features)},
        "jetson_l4t": jetson_l4t(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "threads_env": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
            if name in os.environ
        },
        "governor": _text(cpu / "scaling_governor").strip() or None,
        "clock_mhz": _clock_mhz(cpu),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _clock_mhz(cpu: Path) -> float | None:
    khz = _text(cpu / "scaling_cur_freq").strip()
    if khz.isdigit():
        return int(khz) / 1000
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _text(Path("/proc/cpuinfo")), re.MULTILINE)
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
