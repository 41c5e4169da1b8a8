"""What the sweeps over architectures share: steps that may fail, and a process for each name."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Steps:
    """Runs steps; what fails, and why, and what each took goes into ``result``."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._result = result
        result["seconds"] = {}

    def __call__(self, what: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returns, None where it fails."""
        start = time.monotonic()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - any failure is a result
            self._result.setdefault("failed", {})[what] = reason_of(error)
            return None
        finally:
            self._result["seconds"][what] = round(time.monotonic() - start, 1)


def reason_of(error: Exception) -> str:
    """On one line."""
    from edgevision.errors import EdgeVisionError

    text = error.message if isinstance(error, EdgeVisionError) else repr(error)
    return " ".join(text.split())[:600]


def in_a_process(script: str, name: str, limit_s: float, *flags: str) -> dict[str, Any]:
    """What ``script --one NAME`` writes into its ``--folder``; a crash is a result too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, "--one", name, "--folder", folder, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"failed": {"time": f"longer than {limit_s:.0f} s"}}
        written = Path(folder) / "result.json"
        if done.returncode != 0 or not written.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"failed": {"process": f"exit code {done.returncode}: {last[:300]}"}}
        found: dict[str, Any] = json.loads(written.read_text())
        return found
