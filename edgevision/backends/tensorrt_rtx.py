"""TensorRT-RTX: builds ahead of time for several RTX GPUs, on a machine that needs none."""

from __future__ import annotations

from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends.base import BuildOptions
from edgevision.devices.local import this_machine
from edgevision.errors import UnavailableError

# Options whose names the module has, and what it does with them.
_NOT_HERE = {
    "dla_core": "it ignores the DLA, which no RTX GPU has",
    "timing_cache": "its timing cache is empty, because it times nothing before the first run",
    "version_compatible": "the library that this needs is not part of it",
    "hardware_compatible": "it ignores that; name every compute capability instead",
}


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
        for option, reason in _NOT_HERE.items():
            asked = getattr(options, option)
            if asked is not None and asked is not False:  # core 0 is asked for too
                raise UnavailableError(
                    f"TensorRT-RTX does not take --{option.replace('_', '-')}: {reason}."
                )
        if options.refit and this_machine().gpu is None:
            raise UnavailableError(
                "TensorRT-RTX builds engines for --refit on a machine with an NVIDIA GPU only, and "
                "there is none here."
            )
