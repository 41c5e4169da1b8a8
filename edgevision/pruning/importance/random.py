"""Random scores: the baseline that every other score must beat."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

from edgevision.pruning.importance.base import Importance

if TYPE_CHECKING:
    from edgevision.pruning.graph import Group


class Random(Importance):
    """Uniform scores from the seed, the group's name and its width: the same in every run."""

    def _score(self, group: Group) -> torch.Tensor | None:
        key = f"{self.config.seed}/{group.name}/{group.channels}".encode()
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        return torch.rand(group.channels, generator=generator)
