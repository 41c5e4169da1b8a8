"""float16, bfloat16 and float64 become float32, the one float type that calibration observes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgevision.export.graph import all_graphs

_OTHERS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def to_float32(model: onnx.ModelProto) -> int:
    """Store every tensor of another float type as float32, in all subgraphs, in- and outputs too.

    float16 and bfloat16 values are float32 values exactly; results are then more exact than the
    original's. Casts between float types become casts to float32.
    """
    changed = 0
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            changed += _widen(tensor)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            tensor_type = value.type.tensor_type
            if tensor_type.elem_type in _OTHERS:
                tensor_type.elem_type = TensorProto.FLOAT
                changed += 1
        for node in graph.node:
            for item in node.attribute:
                if item.name in ("to", "dtype", "output_dtype") and item.i in _OTHERS:
                    item.i = TensorProto.FLOAT
                    changed += 1
                for tensor in (item.t, *item.tensors):
                    changed += _widen(tensor)
    return changed


def _widen(tensor: TensorProto) -> int:
    if tensor.data_type not in _OTHERS:
        return 0
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return 1
