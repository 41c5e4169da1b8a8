"""Where the timings of builds on this machine are kept between them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from edgevision.data.cache import cache_folder
from edgevision.devices import this_machine
from edgevision.devices.local import jetson_l4t, jetson_module


def timing_cache_of(version: str, power_mode: str | None, *, cache: Path | None = None) -> Path:
    """The timing cache for builds here: another one where the timings would be others.

    Args:
        version: of TensorRT.
        power_mode: what ``power_mode()`` gives.
        cache: the cache folder, None for the user's.
    """
    module = jetson_module() or this_machine().gpu or "gpu"
    l4t = jetson_l4t()
    parts = [module, f"l4t-{l4t}" if l4t else "", f"tensorrt-{version}", power_mode or ""]
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts if part)
    return cache_folder(cache) / "timing" / f"{name}.cache"


def power_mode() -> str | None:
    """The Jetson's power mode, e.g. "MAXN", as ``nvpmodel -q`` names it; None elsewhere."""
    if jetson_module() is None:
        return None
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    return found[1] if found else None
