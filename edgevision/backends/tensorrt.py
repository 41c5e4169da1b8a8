"""Classic TensorRT: builds on the GPU that runs the engine, a Jetson among them."""

from __future__ import annotations

from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends.base import BuildOptions
from edgevision.devices.jetson import read_jetson
from edgevision.devices.local import this_machine
from edgevision.errors import UnavailableError
from edgevision.types import Availability


class TensorRTBackend(TensorRTFamily):
    """Needs TensorRT's own libraries and a GPU, to build as well as to run."""

    name = "tensorrt"
    module = "tensorrt"
    magic = b"ftrt"
    install = (
        "On a Jetson TensorRT comes with JetPack: make the virtual environment with "
        "--system-site-packages and do not install it over. Elsewhere: pip install "
        "'edgevision[tensorrt]', its libraries come from NVIDIA's own package index."
    )

    def is_available(self) -> Availability:
        found = super().is_available()
        if found.ok and this_machine().gpu is None:
            return Availability(False, f"{found.reason} is here, but no NVIDIA GPU or no driver")
        return found

    def _check_options(self, options: BuildOptions) -> None:
        here = (this_machine().compute_capability or "").replace(".", "")
        others = [name for name in options.compute_capabilities if name != here]
        if others:
            raise UnavailableError(
                f"TensorRT builds for the GPU of this machine (compute capability {here}) only, "
                f"asked for: {', '.join(others)}.",
                hint="Build on the device itself, or use the target 'rtx' for RTX GPUs.",
            )
        if options.hardware_compatible and read_jetson() is not None:
            raise UnavailableError(
                "Engines for every GPU from Ampere on cannot be built on a Jetson.",
                hint="Leave --hardware-compatible out.",
            )
