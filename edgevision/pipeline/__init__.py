"""The functions behind the commands."""

from __future__ import annotations

from edgevision.pipeline.compress import CompressResult, compress
from edgevision.pipeline.job import prepare

__all__ = ["CompressResult", "compress", "prepare"]
