"""Put the Q/DQ pairs of a plan into a copy of the float graph, with numbers from a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, set_initializer
from edgevision.export.passes.unused import drop_unused
from edgevision.quantization.numbers import (
    QuantParams,
    activation_params,
    quantize,
    quantize_bias,
    weight_params,
)
from edgevision.quantization.rules.base import Plan, Slot
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.table import CalibrationTable

QUANTIZED = "_quantized"
DEQUANTIZED = "_dequantized"
FLOAT = "_float"
CORRECTED = "_corrected"


def insert_qdq(
    model: onnx.ModelProto, plan: Plan, table: CalibrationTable, scheme: Scheme
) -> onnx.ModelProto:
    """A copy of the float ``model`` with the Q/DQ pairs of ``plan``.

    Activations get QuantizeLinear and DequantizeLinear; weights and biases are stored as
    integers with a DequantizeLinear. Names are those of the float graph with a suffix.

    Raises:
        ModelError: the table lacks a tensor that the plan quantizes.
    """
    return _Insertion(model, plan, table, scheme).run()


class _Insertion:
    def __init__(
        self, model: onnx.ModelProto, plan: Plan, table: CalibrationTable, scheme: Scheme
    ) -> None:
        self.original = Graph(model)
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes = list(self.model.graph.node)
        self.plan = plan
        self.table = table
        self.scheme = scheme
        self.corrections = table.corrections.get(scheme.name, {})
        self.params: dict[str, QuantParams] = {}
        self.behind: dict[str, list[onnx.NodeProto]] = {}  # by the float tensor they quantize
        self.in_front: dict[int, list[onnx.NodeProto]] = {}  # by position of the node
        self.weights: dict[tuple[str, int | None, bytes], str] = {}  # stored once for all readers

    def run(self) -> onnx.ModelProto:
        for name in sorted(self.plan.activations):
            self._activation(name)
        for slot, axis in sorted(self.plan.weights.items()):
            self._weight(slot, axis)
        ordered = [node for name in self.original.inputs for node in self.behind.get(name, [])]
        for position, node in enumerate(self.nodes):
            ordered += [*self.in_front.get(position, []), node]
            for name in self.original.nodes[position].output:
                ordered += self.behind.get(name, [])
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        drop_unused(self.model)
        constants = {tensor.name for tensor in self.model.graph.initializer}
        for value in list(self.model.graph.input):
            # Old models list constants as inputs; those that became integers are gone.
            if value.name in self.original.initializers and value.name not in constants:
                self.model.graph.input.remove(value)
        return self.model

    def _activation(self, name: str) -> None:
        params = self._activation_params(name)
        source, restored = name, f"{name}{DEQUANTIZED}"
        if name in self.plan.outputs:
            # The graph output keeps its name, so what computes it takes another.
            source, restored = f"{name}{FLOAT}", name
            position = self.original.nodes.index(self.original.producers[name])
            outputs = self.nodes[position].output
            outputs[list(outputs).index(name)] = source
        for position, slot in self.plan.activations[name]:
            self.nodes[position].input[slot] = restored
        quantized = f"{name}{QUANTIZED}"
        numbers = self._store(name, params)
        self.behind[name] = [
            helper.make_node(
                "QuantizeLinear", [source, *numbers], [quantized], f"{name}_QuantizeLinear"
            ),
            helper.make_node(
                "DequantizeLinear", [quantized, *numbers], [restored], f"{name}_DequantizeLinear"
            ),
        ]

    def _activation_params(self, name: str) -> QuantParams:
        if name not in self.params:
            group = sorted(self.plan.scale_group(name))
            missing = [member for member in group if member not in self.table.tensors]
            if missing:
                raise ModelError(
                    f"The calibration table has no entry for tensor '{missing[0]}'.",
                    hint="Calibrate again with this version.",
                )
            ranges = [self.table.tensors[member] for member in group]
            self.params[name] = activation_params(ranges, self.scheme)
        return self.params[name]

    def _weight(self, place: Slot, axis: int | None) -> None:
        position, slot = place
        name = self.original.nodes[position].input[slot]
        weight = self.original.constant(name)
        assert weight is not None, f"the plan takes '{name}' for a constant"
        bias_slot = self.plan.biases.get(position)
        bias = input_scale = None
        if bias_slot is not None:
            bias = self.original.constant(self.original.nodes[position].input[bias_slot])
            factor = self.original.nodes[position].input[1 - slot]
            input_scale = self._activation_params(factor).scale
            bias = self._corrected(position, bias)
        params = weight_params(
            weight,
            axis,
            self.scheme,
            input_scale=input_scale,
            bias=bias,
            learned=self.table.weight_scales.get(name),
        )
        key = (name, axis, params.scale.tobytes())
        if key not in self.weights:
            same = sum(1 for stored in self.weights if stored[0] == name)
            stem = f"{name}_{same}" if same else name
            integers = quantize(weight, params, axis, self.scheme.weight.limit)
            self.weights[key] = self._dequantize(position, stem, integers, params, axis)
        self.nodes[position].input[slot] = self.weights[key]
        if bias_slot is not None and bias is not None and input_scale is not None:
            self._bias(position, bias_slot, bias, input_scale * params.scale)
        elif bias_slot is None:
            self._correct_float_bias(position)

    def _corrected(self, position: int, bias: Any) -> Any:
        """``bias`` of a layer with what bias correction adds to it."""
        if bias is None:
            return None
        added = self.corrections.get(self.original.nodes[position].output[0])
        return bias if added is None else (bias + added).astype(np.float32)

    def _correct_float_bias(self, position: int) -> None:
        node = self.original.nodes[position]
        if node.output[0] not in self.corrections or len(node.input) < 3 or not node.input[2]:
            return
        bias = self._corrected(position, self.original.constant(node.input[2]))
        if bias is not None:
            name = f"{node.input[2]}{CORRECTED}_of_{node.output[0]}"
            set_initializer(self.model, name, bias)
            self.nodes[position].input[2] = name

    def _bias(
        self,
        position: int,
        slot: int,
        bias: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
    ) -> None:
        # The kernel takes the integers on exactly this float32 product, without reading a scale.
        scale = np.ascontiguousarray(np.broadcast_to(scale, bias.shape), np.float32)
        params = QuantParams(scale, np.zeros(bias.shape, np.int32))
        node = self.original.nodes[position]
        stem = f"{node.input[slot]}_of_{node.output[0]}"
        integers = quantize_bias(bias, scale)
        self.nodes[position].input[slot] = self._dequantize(position, stem, integers, params, 0)

    def _dequantize(
        self,
        position: int,
        stem: str,
        integers: npt.NDArray[Any],
        params: QuantParams,
        axis: int | None,
    ) -> str:
        """Store ``integers`` with a DequantizeLinear in front of a node; what that is called."""
        set_initializer(self.model, f"{stem}{QUANTIZED}", integers)
        node = helper.make_node(
            "DequantizeLinear",
            [f"{stem}{QUANTIZED}", *self._store(stem, params)],
            [f"{stem}{DEQUANTIZED}"],
            f"{stem}_DequantizeLinear",
        )
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.in_front.setdefault(position, []).append(node)
        return f"{stem}{DEQUANTIZED}"

    def _store(self, stem: str, params: QuantParams) -> list[str]:
        names = [f"{stem}_scale", f"{stem}_zero_point"]
        set_initializer(self.model, names[0], params.scale)
        set_initializer(self.model, names[1], params.zero_point)
        return names
