"""Networks that are exported anew, whose tensors change their names with their widths."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from exported_network import Exported
from networks import Transformer
from torch import nn

from edgevision.errors import ModelError
from edgevision.export import load_onnx
from edgevision.latency import WidthShapes
from edgevision.latency.names import take_names
from edgevision.quantization.placement import infer_shapes

HEADER = '<ir_version: 9, opset_import: ["" : 18]>'


class Heads(nn.Module):
    """Two attentions in a row, whose keys the exporter copies only where there are many heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q = nn.Linear(width, 8 * heads)
        self.kv = nn.Linear(width, 16 * heads)
        self.proj = nn.Linear(8 * heads, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(batch, tokens, self.num_heads, -1).split([8, 8], dim=3)
        attention = (q @ k.permute(0, 2, 3, 1)).softmax(-1)
        x = (attention @ v.transpose(1, 2)).transpose(1, 2).reshape(batch, tokens, -1)
        return self.proj(x)


def elements(model: onnx.ModelProto) -> list[int]:
    """Of the output of each node with a channel axis."""
    found = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in infer_shapes(model)
    }
    shapes = [found.get(node.output[0], []) for node in model.graph.node]
    return [prod(shape) for shape in shapes if len(shape) > 1]


def test_one_head_left_counts_as_one_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Transformer(nn.Sequential(Heads(32, 3), Heads(32, 3)))
    exported = Exported(tmp_path, module)
    whole = load_onnx(exported.path)
    heads = {name: span for name, span in exported.bounds.items() if span == (3, 1)}
    assert len(heads) == 2
    shapes = WidthShapes(whole, exported.cost, heads, exported.anew)
    one = dict.fromkeys(heads, 1)
    raw = exported.anew({**{name: wide for name, (wide, _) in exported.bounds.items()}, **one})
    names = [[node.output[0] for node in model.graph.node] for model in (whole, raw)]
    assert any(name in names[0] for a, name in zip(*names, strict=True) if name != a), (
        "this export gives names of the whole network's to other tensors"
    )
    channels = shapes.channels(np.array([[1, 1]], dtype=np.int64))[0]
    predicted = [layer.places * round(channels[layer.out]) for layer in shapes.layers]
    assert predicted == elements(raw)
    assert predicted != elements(whole)
    assert [node.output[0] for node in shapes.narrowed(one).graph.node] == names[0]


def graph_of(body: str, constants: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.parser.parse_model(
        f"{HEADER} net (float[1, 4] x) => (float[1, 4] y) {{ {body} }}"
    )
    for name, value in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    return model


def names_of(model: onnx.ModelProto) -> list[tuple[list[str], list[str]]]:
    return [(list(node.input), list(node.output)) for node in model.graph.node]


TABLE = np.zeros((4, 1))


def test_a_constant_that_was_computed_at_export_is_no_operator() -> None:
    whole = graph_of("t = Transpose(table) a = Add(x, t) y = Relu(a)", {"table": TABLE})
    narrow = graph_of("b = Add(x, a) y = Relu(b)", {"a": TABLE.T})
    take_names(narrow, whole, ["heads"])
    assert names_of(narrow) == [(["x", "a_constant"], ["a"]), (["a"], ["y"])]
    onnx.checker.check_model(narrow, full_check=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a = Relu(x) y = Relu(a)", "expected Add 'a' as operator 0 .* got Relu 'a'"),
        ("y = Add(x, x)", "expected Relu 'y' as operator 1 .* got none"),
        ("a = Add(x, x) b = Relu(a) y = Relu(b)", "expected none as operator 2"),
    ],
)
def test_other_operators_are_refused(body: str, message: str) -> None:
    whole = graph_of("a = Add(x, x) y = Relu(a)")
    with pytest.raises(ModelError, match=message) as found:
        take_names(graph_of(body), whole, ["heads", "mlp"])
    assert "Narrowed at 'heads' and 1 more" in found.value.message
    assert "ignored_layers" in (found.value.hint or "")
