"""Where the timings of builds on this machine are kept between them."""

from __future__ import annotations

import re
from pathlib import Path

from edgevision.data.cache import cache_folder
from edgevision.devices import this_machine
from edgevision.devices.jetson import Jetson, read_jetson


def timing_cache_of(
    version: str, jetson: Jetson | None = None, *, cache: Path | None = None
) -> Path:
    """The timing cache for builds here: another one where the timings would be others.

    Args:
        version: of TensorRT.
        jetson: that this machine is, None to look.
        cache: the cache folder, None for the user's.
    """
    jetson = jetson or read_jetson()
    if jetson is None:
        parts = [this_machine().gpu or "gpu"]
    else:
        mode = str(jetson.power_mode) if jetson.power_mode else ""
        parts = [jetson.name, f"l4t-{jetson.l4t}" if jetson.l4t else "", mode]
    parts.append(f"tensorrt-{version}")
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts if part)
    return cache_folder(cache) / "timing" / f"{name}.cache"
