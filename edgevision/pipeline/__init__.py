"""The functions behind the commands."""

from __future__ import annotations

from edgevision.pipeline.compress import CompressResult, compress
from edgevision.pipeline.front import FrontResult, compress_front
from edgevision.pipeline.job import prepare

__all__ = ["CompressResult", "FrontResult", "compress", "compress_front", "prepare"]
