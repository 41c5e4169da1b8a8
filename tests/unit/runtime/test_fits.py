"""What an engine's sidecar says against the machine, before anything is opened."""

from __future__ import annotations

from typing import Any

import pytest

from edgevision.runtime.fits import engine_misfit
from tests.unit.runtime.boards import Board

ORIN = {"tensorrt": "10.3.0"}


def misfit(meta: dict[str, Any], board: Board, backend: str = "tensorrt") -> str | None:
    return engine_misfit(meta, backend, board)


@pytest.mark.parametrize(
    ("built", "here", "compatible", "fits"),
    [
        ("10.3.0.26", "10.3.0", False, True),  # JetPack's package leaves the build out
        ("10.3.0.26", "10.3.0.30", False, True),
        ("10.3.0.26", "10.3.1", False, False),
        ("10.3.0.26", "10.13.3.9", False, False),
        ("10.3.0.26", "10.13.3.9", True, True),
        ("10.13.3.9", "10.3.0", True, False),  # an older one reads nothing newer
        ("8.6.2.3", "10.3.0", True, True),
        ("8.6.2.3", "9.0.1", True, False),
        ("8.6.2.3", "11.4.0", True, False),
        ("10.3.0.26", "11.4.0.1", True, True),
        ("11.4.0.1", "10.3.0", True, False),
        ("10.3.0.30", "10.7.0.post1", False, False),
        ("8.6.2.3", "8.6.2-1+cuda12", False, True),
    ],
)
def test_versions(built: str, here: str, compatible: bool, fits: bool) -> None:
    board = Board(packages={"tensorrt": here}, host_code=True)
    found = misfit({"version": built, "version_compatible": compatible}, board)
    assert found == (None if fits else f"built for TensorRT {built}; here TensorRT {here}")


@pytest.mark.parametrize(
    ("built", "level", "here", "fits"),
    [
        (["87"], None, "8.7", True),
        (["8.7"], None, "8.7", True),
        (["86", "89"], None, "8.9", True),
        (["86"], None, "8.9", False),
        (["86"], "ampere+", "8.0", True),
        (["86"], "ampere+", "12.0", True),
        (["86"], "ampere+", "7.5", False),
        (["86"], "some later level", "8.9", False),
    ],
)
def test_compute_capabilities(built: list[str], level: str | None, here: str, fits: bool) -> None:
    meta = {"compute_capabilities": built, "hardware_compatibility": level}
    found = misfit(meta, Board(sm=here, packages={}))
    assert (found is None) == fits, found


def test_all_that_differs_is_in_one_line_with_what_does_not() -> None:
    meta = {"version": "10.3.0.26", "compute_capabilities": ["87"], "platform": "Linux aarch64"}
    board = Board(
        sm="8.7", packages={"tensorrt": "8.6.2"}, architecture="aarch64", system="Linux 5.15"
    )
    assert misfit(meta, board) == (
        "built for TensorRT 10.3.0.26, SM 87 and Linux aarch64; "
        "here TensorRT 8.6.2, SM 87 and Linux aarch64"
    )
    assert misfit({**meta, "version": "8.6.2.3"}, board) is None


def test_an_engine_for_every_gpu_is_still_of_one_platform() -> None:
    meta = {
        "compute_capabilities": ["86"],
        "hardware_compatibility": "ampere+",
        "platform": "Linux x86_64",
    }
    board = Board(sm="8.7", packages={}, architecture="aarch64", system="Linux 5.15")
    assert misfit(meta, board) == (
        "built for SM 80+ and Linux x86_64; here SM 87 and Linux aarch64"
    )
    assert misfit(meta, board, "tensorrt_rtx") is None, "those run on several systems"


def test_code_for_the_cpu_is_refused_unless_asked_for() -> None:
    meta = {"version": "10.3.0.26", "version_compatible": True}
    assert "EDGEVISION_ALLOW_HOST_CODE=1" in (misfit(meta, Board(packages=ORIN)) or "")
    assert misfit(meta, Board(packages=ORIN, host_code=True)) is None


def test_an_engine_of_tensorrt_rtx_is_for_one_release() -> None:
    board = Board(packages={"tensorrt-rtx": "1.7.1.116", "tensorrt": "10.3.0"})
    assert misfit({"version": "1.7.1.116"}, board, "tensorrt_rtx") is None
    told = misfit({"version": "1.5.0.1"}, board, "tensorrt_rtx")
    assert told == "built for TensorRT-RTX 1.5.0.1; here TensorRT-RTX 1.7.1.116"


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"version": None, "compute_capabilities": None, "platform": None},
        {"version": 10, "compute_capabilities": "87", "platform": ["Linux", "aarch64"]},
        {"version": "9" * 5000, "compute_capabilities": [{}, None, "x" * 5000], "platform": "\0"},
        {"version": "ten", "compute_capabilities": [], "hardware_compatibility": ["ampere+"]},
        {"version_compatible": "yes"},
    ],
)
def test_what_a_sidecar_does_not_say_is_no_obstacle(meta: dict[str, Any]) -> None:
    assert misfit(meta, Board(packages=ORIN)) is None


def test_a_version_that_the_machine_does_not_tell_is_no_obstacle() -> None:
    assert misfit({"version": "10.3.0.26"}, Board(packages={})) is None
