"""Where the timings of builds on this machine are kept between them."""

from __future__ import annotations

from pathlib import Path

from edgevision.backends._trt_cache import timing_cache_name
from edgevision.data.cache import cache_folder
from edgevision.devices.jetson import Jetson


def timing_cache_of(
    version: str, jetson: Jetson | None = None, *, cache: Path | None = None
) -> Path:
    """The timing cache for builds here: another one where the timings would be others.

    Args:
        version: of TensorRT.
        jetson: that this machine is, None to look.
        cache: the cache folder, None for the user's.
    """
    return cache_folder(cache) / "timing" / timing_cache_name(version, jetson)
