"""The agent as one file: a zip of the modules that it needs, which Python runs as it is."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# Files of the package, as patterns. All of them keep to Python 3.8 and import numpy at the most.
PATTERNS = (
    "__init__.py",
    "errors.py",
    "files.py",
    "lazy.py",
    "machine.py",
    "registry.py",
    "types.py",
    "agent/*.py",
    "backends/*.py",
    "benchmark/__init__.py",
    "benchmark/clock.py",
    "benchmark/compare.py",
    "benchmark/graphs.py",
    "benchmark/monitor.py",
    "benchmark/power.py",
    "benchmark/sampling.py",
    "benchmark/statistics.py",
    "devices/*.py",
    "devices/jetpacks.json",
)
_LEFT_OUT = ("backends/pytorch.py",)
_DATE = (1980, 1, 1, 0, 0, 0)
# Of the oldest syntax, so that an old interpreter can say what it is.
_MAIN = """\
import json
import sys

if sys.version_info < (3, 8):
    text = "Python %d.%d" % sys.version_info[:2]
    print(json.dumps({"error": {
        "kind": "UnavailableError",
        "message": "The device runs the agent with %s, it needs 3.8 or later." % text,
        "hint": "Name another one: ssh://user@host?python=/usr/bin/python3.8",
    }}))
    sys.exit(0)

from pathlib import Path

from edgevision.agent.serve import serve

serve(Path(sys.argv[1]))
"""


def agent_files() -> list[Path]:
    """Modules of the agent, sorted."""
    found = {path for pattern in PATTERNS for path in PACKAGE.glob(pattern)}
    return sorted(found - {PACKAGE / name for name in _LEFT_OUT})


@lru_cache(maxsize=1)
def agent_archive() -> bytes:
    """The zip; the same bytes for the same modules."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)

        add("__main__.py", _MAIN.encode())
        for path in agent_files():
            name = Path("edgevision") / path.relative_to(PACKAGE)
            add(name.as_posix(), path.read_bytes())
    return buffer.getvalue()
