"""The float remainder of a graph in float16, as typed nodes: what strongly typed networks want."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, opset_of
from edgevision.export.passes.unused import drop_unused
from edgevision.quantization.equivalence import QDQ
from edgevision.quantization.placement import float32_tensors
from edgevision.quantization.table import CalibrationTable

SMALLEST_OPSET = 18
_SCALES_OPSET = 19  # Q/DQ take float16 scales; all else in 19 is 18 with more choices
_LARGEST = float(np.finfo(np.float16).max)
# A tensor that reached this in calibration may reach beyond float16 on another image.
_SAFE = _LARGEST / 4
# Sums over many values, and powers: they leave float16's range though inputs and outputs do not.
_FLOAT32 = (
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("LpNormalization", "MeanVarianceNormalization", "BatchNormalization", "CumSum"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd"),
    *("ReduceLogSum", "ReduceLogSumExp", "Exp", "Pow", "Log", "Reciprocal", "LogSoftmax"),
)


def to_half(
    model: onnx.ModelProto,
    *,
    table: CalibrationTable | None = None,
    keep_float32: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a Q/DQ or plain float ``model`` that computes in float16 what is not INT8.

    Inputs and outputs stay float32 with a Cast behind and in front of them. Scales of Q/DQ become
    float16, so that a DequantizeLinear gives float16 without a Cast that would stand between it
    and its layer; weights stay the integers they were. In float32 stay, between Casts:
    normalizations, reductions and powers; nodes with a constant that float16 cannot hold; nodes
    that read or make a tensor whose values in ``table`` come near float16's largest; and nodes
    with subgraphs. The opset becomes 19 where it is 18.

    Args:
        model: float32; not changed.
        table: of its calibration.
        keep_float32: names of further nodes that stay.

    Raises:
        ModelError: the opset is below 18.
    """
    opset = opset_of(model)
    if opset < SMALLEST_OPSET:
        raise ModelError(
            f"A float16 remainder wants opset {SMALLEST_OPSET} or later, the model has {opset}.",
            hint="Export it with opset 18. TensorRT 8 wants the float32 graph and an FP16 flag.",
        )
    return _Half(model, table, frozenset(keep_float32)).run()


class _Half:
    def __init__(
        self, model: onnx.ModelProto, table: CalibrationTable | None, kept: frozenset[str]
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.opset = max(opset_of(model), _SCALES_OPSET)
        for entry in self.model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = self.opset
        self.float32 = float32_tensors(model)
        self.graph = Graph(self.model)
        self.kept = kept
        self.wide = {
            name
            for name, found in (table.tensors.items() if table is not None else ())
            if max(-found.minimum, found.maximum) > _SAFE
        }
        self.half: set[str] = set()  # tensors that are float16 now
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            if node.op_type in QDQ and node.input[0] in self.wide:
                self.wide.update(node.output)  # what was too large stays so behind Q/DQ
            slots = self._half_inputs(node)
            outputs = [name for name in node.output if name in self.float32]
            converts = bool(slots) and not self._stays(node)
            for slot, name in enumerate(node.input):
                if converts and slot in slots:
                    node.input[slot] = self._as(name, TensorProto.FLOAT16)
                elif name in self.half:
                    node.input[slot] = self._as(name, TensorProto.FLOAT)
            self.nodes.append(node)
            if converts and node.op_type != "QuantizeLinear":
                self.half.update(outputs)
                self._leave(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.model.graph.node[:], self.model.graph.value_info[:]
        self.model.graph.node.extend(copies)
        drop_unused(self.model)
        return self.model

    def _half_inputs(self, node: onnx.NodeProto) -> set[int]:
        """Inputs of ``node`` that may turn float16 together with its outputs."""
        nested = any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute)
        if node.domain not in ("", "ai.onnx") or node.op_type == "Cast" or nested:
            return set()
        if node.op_type == "DequantizeLinear":
            return {1}
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        halves = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if "tensor(float16)" in constraint.allowed_type_strs
        }
        for slot, name in enumerate(node.output):
            formal = schema.outputs[min(slot, len(schema.outputs) - 1)]
            if name in self.float32 and formal.type_str not in halves:
                return set()
        return {
            slot
            for slot, name in enumerate(node.input)
            if self._is_float32(name)
            and schema.inputs[min(slot, len(schema.inputs) - 1)].type_str in halves
        }

    def _is_float32(self, name: str) -> bool:
        tensor = self.graph.initializers.get(name)
        if tensor is not None:
            return bool(tensor.data_type == TensorProto.FLOAT)
        return name in self.float32

    def _stays(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _FLOAT32 or (node.name and node.name in self.kept):
            return True
        if any(name in self.graph.captured for name in node.output):
            return True
        if any(name in self.wide for name in (*node.input, *node.output)):
            return True
        is_qdq = node.op_type in QDQ
        return any(
            not (_scale_fits(array) if is_qdq else _fits(array))
            for name in node.input
            if (array := self.graph.constant(name)) is not None and array.dtype == np.float32
        )

    def _as(self, name: str, kind: int) -> str:
        """``name`` in float16 or float32: itself, a constant of that type, or a Cast."""
        if (name in self.half) == (kind == TensorProto.FLOAT16):
            return name
        if (name, kind) not in self.casts:
            suffix = "half" if kind == TensorProto.FLOAT16 else "single"
            other = self.graph.fresh_name(f"{name}_{suffix}")
            array = self.graph.constant(name)
            if array is not None:
                half = numpy_helper.from_array(array.astype(np.float16), other)
                self.model.graph.initializer.append(half)
            else:
                self.nodes.append(
                    helper.make_node("Cast", [name], [other], f"{other}_Cast", to=kind)
                )
            self.casts[name, kind] = other
        return self.casts[name, kind]

    def _leave(self, node: onnx.NodeProto) -> None:
        """Graph outputs keep name and type: what computes them takes another name."""
        for slot, name in enumerate(node.output):
            if name not in self.graph.outputs or name not in self.half:
                continue
            inner = self.graph.fresh_name(f"{name}_half")
            node.output[slot] = inner
            self.half.discard(name)
            self.half.add(inner)
            self.casts[name, TensorProto.FLOAT16] = inner
            cast = helper.make_node("Cast", [inner], [name], f"{name}_Cast", to=TensorProto.FLOAT)
            self.nodes.append(cast)


def _fits(array: npt.NDArray[np.float32]) -> bool:
    """Whether float16 holds ``array``: nothing too large, and a lone number not lost to zero."""
    peak = float(np.abs(array).max(initial=0.0))
    if not peak <= _LARGEST:  # infinite and NaN too
        return False
    return peak == 0 or bool(np.abs(array).max().astype(np.float16) > 0)


def _scale_fits(array: npt.NDArray[np.float32]) -> bool:
    """Whether every scale survives float16 to its normal precision, 2^-11."""
    half = array.astype(np.float16).astype(np.float32)
    return bool(np.isfinite(half).all() and (np.abs(half - array) <= array * 2.0**-10).all())
