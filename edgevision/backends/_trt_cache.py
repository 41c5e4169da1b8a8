"""The timing cache: what the builder measured, kept so that the next build need not."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from edgevision.devices import this_machine
from edgevision.devices.jetson import Jetson, read_jetson
from edgevision.files import sha256_bytes, write_atomic, write_json

_LOG = logging.getLogger(__name__)


def use_timing_cache(config: Any, path: Path, version: str) -> None:
    """Give the builder the timings in ``path``; none where they are damaged or of another TensorRT.

    What was measured is refused with a warning and measured anew: timings of another device or
    version build slow or wrong engines, so a mismatch is never ignored.
    """
    known = _read(path, version)
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        if known:
            _refused(path, f"TensorRT {version} says it is of another device or version")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timing_cache(config: Any, path: Path, version: str) -> None:
    """Write the builder's timings to ``path``, and beside it their hash and version."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    data = bytes(cache.serialize())
    write_atomic(path, data)
    write_json(_facts(path), {"sha256": sha256_bytes(data), "tensorrt": version})


def _read(path: Path, version: str) -> bytes:
    if not path.is_file():
        return b""
    data = path.read_bytes()
    try:
        facts = json.loads(_facts(path).read_bytes())
        made_by, expected = facts["tensorrt"], facts["sha256"]
    except FileNotFoundError:  # made by another tool, trtexec for instance
        return data
    except (ValueError, KeyError, TypeError):
        made_by, expected = version, ""
    if made_by != version:
        _refused(path, f"it is of TensorRT {made_by}, this is {version}")
        return b""
    if sha256_bytes(data) != expected:
        _refused(path, "it is damaged: its hash is not the one noted beside it")
        return b""
    return data


def _facts(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _refused(path: Path, reason: str) -> None:
    _LOG.warning("The timing cache %s is not used, and made anew: %s.", path, reason)


def timing_cache_name(version: str, jetson: Jetson | None = None) -> str:
    """Name of the file for builds here: another one where the timings would be others.

    Args:
        version: of TensorRT.
        jetson: that this machine is, None to look.
    """
    jetson = jetson or read_jetson()
    if jetson is None:
        parts = [this_machine().gpu or "gpu"]
    else:
        mode = str(jetson.power_mode) if jetson.power_mode else ""
        parts = [jetson.name, f"l4t-{jetson.l4t}" if jetson.l4t else "", mode]
    parts.append(f"tensorrt-{version}")
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts if part)
    return f"{name}.cache"
