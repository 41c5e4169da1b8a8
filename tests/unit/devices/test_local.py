from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgevision.devices import environment, local, this_machine

X86 = """processor\t: 0
model name\t: AMD EPYC 9354
flags\t\t: fpu sse4_1 avx avx2 fma avx512f avx512_vnni made_up

processor\t: 1
model name\t: something else
flags\t\t: none
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nHardware\t: Tegra\n"


def test_this_machine_is_described() -> None:
    found = this_machine()
    assert found.name
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_mb > 100
    assert (found.gpu is None) == (found.compute_capability is None)


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (X86, "AMD EPYC 9354", ("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni")),
        (ARM, "Tegra", ("asimd", "asimddp")),
        ("", "", ()),
        ("nonsense", "", ()),
    ],
)
def test_cpuinfo(text: str, name: str, features: tuple[str, ...]) -> None:
    assert local.read_cpuinfo(text) == (name, features)


def test_the_features_are_those_that_the_kernel_shows() -> None:
    shown = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert set(this_machine().cpu_features) <= shown


def test_the_environment_is_plain_json_with_what_decides_a_figure() -> None:
    found = json.loads(json.dumps(environment(), allow_nan=False))
    assert found["device"]["cores"] == this_machine().cores
    assert found["packages"]["numpy"]
    assert {"governor", "clock_mhz", "load", "python", "threads_env"} <= found.keys()


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("NVIDIA H200, 9.0\nNVIDIA H200, 9.0\n", ("NVIDIA H200", "9.0")),
        ("NVIDIA GeForce RTX 4090, 8.9\n", ("NVIDIA GeForce RTX 4090", "8.9")),
        ("", ("driver", "1.0")),
        ("No devices were found\n", ("driver", "1.0")),
        ("Orin (nvgpu), [N/A]\n", ("driver", "1.0")),
    ],
)
def test_the_gpu_out_of_nvidia_smi_or_else_the_driver(
    output: str, found: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(args, 0, stdout=output, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(local, "_gpu_from_driver", lambda: ("driver", "1.0"))
    assert local._gpu() == found


def test_no_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert local._gpu() == (None, None)
