"""A network with all that predicting its time takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from torch import nn

from edgevision.export import export_onnx, load_onnx
from edgevision.pruning import PruneConfig
from edgevision.pruning.allowed import allowed_widths
from edgevision.types import TensorSpec

SHAPE = (3, 16, 16)


class Exported:
    """A network, its float graph and the widths that its groups may have."""

    def __init__(self, folder: Path, module: nn.Module) -> None:
        self.module = module.eval()
        self.path = folder / "float.onnx"
        self._export(self.module, self.path)
        head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
        self.widths = allowed_widths(
            module,
            example_shape=(1, *SHAPE),
            config=PruneConfig(macs=0.5),
            ignored=head,
            round_to=2,
        )
        self.cost, self.allowed = self.widths.cost, self.widths.allowed
        self.bounds = self.widths.bounds

    def _export(self, module: nn.Module, path: Path) -> None:
        spec = TensorSpec("image", ("batch", *SHAPE))
        export_onnx(module, path, input_spec=spec, output_names=["logits"])

    def anew(self, kept: Mapping[str, int]) -> onnx.ModelProto:
        """Narrowed in torch and exported again."""
        path = self.path.with_name("anew.onnx")
        self._export(self.widths.narrowed(kept), path)
        return load_onnx(path)
