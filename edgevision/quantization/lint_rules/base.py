"""What lint rules look at: a graph whose Q/DQ pairs are sorted by what they quantize."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.export.graph import Graph, Use, attribute
from edgevision.quantization.numbers import QuantParams, quantize
from edgevision.quantization.schemes import Scheme

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Finding:
    """One thing wrong: which rule, at which node, what and why.

    An ``error`` makes the target compute something else, or refuse; a ``warning`` costs speed.
    """

    rule: str
    node: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.node}: {self.message} [{self.rule}]"


class QdqGraph:
    """Index over a Q/DQ graph.

    ``quantizers`` are all QuantizeLinear nodes; ``dequantizers`` all DequantizeLinear nodes, of
    which those in ``weights`` and ``biases`` read constants: integers, or a layer's float factor
    behind one of the ``rounders``. A single number to add or to multiply with is neither.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = Graph(model)
        nodes = self.graph.nodes
        self.quantizers = [node for node in nodes if node.op_type == "QuantizeLinear"]
        self.dequantizers = [node for node in nodes if node.op_type == "DequantizeLinear"]
        self.rounders = {
            node.output[0]: node for node in self.quantizers if self._rounds_a_factor(node)
        }
        self.constants = [
            node for node in self.dequantizers if self.stored(node) in self.graph.initializers
        ]
        self.biases = [node for node in self.constants if self._is_bias(node)]
        self.weights = [
            node for node in self.constants if node not in self.biases and not self._is_number(node)
        ]

    def activations(self) -> Iterator[onnx.NodeProto]:
        """Every Q and DQ node on an activation."""
        yield from (node for node in self.quantizers if node.output[0] not in self.rounders)
        yield from (node for node in self.dequantizers if node not in self.constants)

    def stored(self, node: onnx.NodeProto) -> str:
        """Name of the tensor that a Q or DQ node reads, before any rounding of constants."""
        rounder = self.rounders.get(node.input[0])
        name: str = (rounder or node).input[0]
        return name

    def readers(self, dequantizer: onnx.NodeProto) -> list[Use]:
        """Readings of what ``dequantizer`` gives back."""
        return self.graph.uses.get(dequantizer.output[0], [])

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes ``name``, None where something else does."""
        node = self.graph.producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def scale(self, node: onnx.NodeProto) -> npt.NDArray[Any] | None:
        """Scale of a Q or DQ node, None where it is computed at run time."""
        return self.graph.constant(node.input[1])

    def zero_point(self, node: onnx.NodeProto) -> npt.NDArray[Any] | None:
        """Zero point of a Q or DQ node; None where it is absent or computed."""
        if len(node.input) < 3 or not node.input[2]:
            return None
        return self.graph.constant(node.input[2])

    def integer_dtype(self, node: onnx.NodeProto) -> np.dtype[Any] | None:
        """Integer type that a Q or DQ node works with."""
        zero_point = self.zero_point(node)
        if zero_point is not None:
            return zero_point.dtype
        if node.op_type == "DequantizeLinear":
            constant = self.graph.constant(node.input[0])
            if constant is not None:
                return constant.dtype
            maker = self.graph.producers.get(node.input[0])
            return self.integer_dtype(maker) if maker is not None else None
        given = attribute(node, "output_dtype", 0)
        return onnx.helper.tensor_dtype_to_np_dtype(given) if given else np.dtype(np.uint8)

    def integers(self, node: onnx.NodeProto) -> npt.NDArray[Any] | None:
        """What a DequantizeLinear of symmetric int8 weights reads, None where it cannot be told."""
        value = self.graph.constant(self.stored(node))
        rounder = self.rounders.get(node.input[0])
        if value is None or rounder is None:
            return value
        scale, axis = self.scale(rounder), attribute(rounder, "axis", 1)
        if scale is None or self.integer_dtype(rounder) != np.int8:
            return None
        if scale.size == 1:
            axis = None
        elif not -value.ndim <= axis < value.ndim or value.shape[axis] != scale.size:
            return None
        params = QuantParams(scale, np.zeros(scale.shape, np.int8))
        return quantize(value, params, axis, np.iinfo(np.int8).max)

    def _rounds_a_factor(self, quantizer: onnx.NodeProto) -> bool:
        if quantizer.input[0] not in self.graph.initializers:
            return False
        readers = [
            use
            for reader in self.graph.uses.get(quantizer.output[0], [])
            for use in self.graph.uses.get(reader.node.output[0], [])
        ]
        return bool(readers) and all(use.node.op_type in LAYERS for use in readers)

    def _is_bias(self, node: onnx.NodeProto) -> bool:
        uses = self.readers(node)
        return bool(uses) and all(u.slot == 2 and u.node.op_type in LAYERS for u in uses)

    def _is_number(self, node: onnx.NodeProto) -> bool:
        """Whether it is a single number that activations are added to or multiplied with."""
        constant = self.graph.constant(self.stored(node))
        readers = {use.node.op_type for use in self.readers(node)}
        return constant is not None and constant.size == 1 and readers <= {"Add", "Mul"}


class LintRule(Protocol):
    """Looks for one kind of fault."""

    def __call__(self, graph: QdqGraph, scheme: Scheme) -> list[Finding]: ...
