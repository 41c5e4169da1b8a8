"""EdgeVision: the fastest vision model that still passes your accuracy budget, proven.

The functions behind the commands; each is imported when it is first used.

Example:
    >>> import edgevision
    >>> result = edgevision.compress("cifar-resnet20", data="cifar10", target="cpu")
    >>> with edgevision.load(result.bundle) as model:
    ...     print(model("photo.jpg"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "compress": "edgevision.pipeline.compress",
    "compress_front": "edgevision.pipeline.front",
    "build_engine": "edgevision.pipeline.engine",
    "bench_bundle": "edgevision.pipeline.bench",
    "verify_bundle": "edgevision.pipeline.check",
    "survey": "edgevision.pipeline.survey",
    "load_data": "edgevision.data",
    "load": "edgevision.runtime",
}
__all__ = [
    "bench_bundle",
    "build_engine",
    "compress",
    "compress_front",
    "load",
    "load_data",
    "survey",
    "verify_bundle",
]

if TYPE_CHECKING:
    from edgevision.data import load_data
    from edgevision.pipeline.bench import bench_bundle
    from edgevision.pipeline.check import verify_bundle
    from edgevision.pipeline.compress import compress
    from edgevision.pipeline.engine import build_engine
    from edgevision.pipeline.front import compress_front
    from edgevision.pipeline.survey import survey
    from edgevision.runtime import load


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'edgevision' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)
