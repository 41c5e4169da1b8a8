"""From what the user wrote for DATA to the two splits."""

from __future__ import annotations

from pathlib import Path

from edgevision.data.base import DataSplits
from edgevision.data.builtin.base import Progress


def load_data(
    reference: str,
    *,
    cache: Path | None = None,
    image_size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> DataSplits:
    from edgevision.data.builtin import BUILTIN
    from edgevision.data.cache import cache_folder

    return BUILTIN.get(reference)().load(cache_folder(cache), progress)
