"""TensorRT-RTX: builds ahead of time for several RTX GPUs, on a machine that needs none."""

from __future__ import annotations

from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends.base import BuildOptions
from edgevision.devices.local import this_machine
from edgevision.errors import UnavailableError


class TensorRTRTXBackend(TensorRTFamily):
    """Plans serve Ampere (80, 86), Ada (89) and Blackwell (120, 121), Linux and Windows alike."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    magic = b"vtrt"
    install = "Install it with: pip install 'edgevision[tensorrt-rtx]'"

    def _check_options(self, options: BuildOptions) -> None:
        if not options.compute_capabilities and this_machine().gpu is None:
            raise UnavailableError(
                "There is no NVIDIA GPU or no driver here, and no compute capability to build for.",
                hint="Name some, e.g. --compute-capability 86 --compute-capability 89.",
            )
