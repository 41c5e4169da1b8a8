"""What a data set known by name offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from edgevision.data.base import DataSplits
from edgevision.preprocessing import Preprocessing

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much (0 of 0 when not known)."""


class BuiltinData(ABC):
    """A data set with a name of its own."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line for `edgevision data list`
    labels: ClassVar[tuple[str, ...]]
    preprocessing: ClassVar[Preprocessing]

    @abstractmethod
    def is_here(self, cache: Path) -> bool:
        """Whether ``load`` works without a network."""

    @abstractmethod
    def load(self, cache: Path, progress: Progress | None = None) -> DataSplits:
        """The two splits; fetched first when they are not here.

        Raises:
            DataError: they cannot be reached, or what came is damaged.
        """
