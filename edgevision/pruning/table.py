"""The pruning table: each layer before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from edgevision.pruning.macs import Count

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class PruneRow:
    """One layer; channels are (in, out), MACs are of one image."""

    name: str
    kind: str
    channels_before: tuple[int, int]
    channels_after: tuple[int, int]
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int


@dataclass(frozen=True)
class PruneTable:
    """Every convolution and linear layer before and after, and what stayed whole and why."""

    rows: Sequence[PruneRow]
    whole: Sequence[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: ``{"layers": [...], "whole": [{"group", "reason"}]}``."""
        return {
            "layers": [
                {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in asdict(row).items()
                }
                for row in self.rows
            ],
            "whole": [{"group": group, "reason": reason} for group, reason in self.whole],
        }

    def render(self) -> Table:
        """A rich table of the layers."""
        from rich.table import Table

        table = Table("layer", "kind", title="Pruning")
        for heading in ("in", "out", "MACs", "parameters"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                row.name,
                row.kind,
                _change(row.channels_before[0], row.channels_after[0]),
                _change(row.channels_before[1], row.channels_after[1]),
                _change(row.macs_before, row.macs_after),
                _change(row.params_before, row.params_after),
            )
        return table


def prune_table(
    original: nn.Module, pruned: nn.Module, before: Count, after: Count, whole: dict[str, str]
) -> PruneTable:
    """Compare the layers of ``original`` with those of ``pruned``, by name.

    Of a layer that went with its block no channels are left.
    """
    rows = []
    left = dict(pruned.named_modules())
    for name, layer in original.named_modules():
        if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        rows.append(
            PruneRow(
                name=name,
                kind=type(layer).__name__,
                channels_before=_channels(layer),
                channels_after=_channels(left[name]) if name in left else (0, 0),
                macs_before=before.layer_macs.get(name, 0),
                macs_after=after.layer_macs.get(name, 0),
                params_before=before.layer_params.get(name, 0),
                params_after=after.layer_params.get(name, 0),
            )
        )
    return PruneTable(tuple(rows), tuple(whole.items()))


def _channels(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"
