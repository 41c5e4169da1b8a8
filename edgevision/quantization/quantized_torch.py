"""The float graph with fake quantization exactly where a scheme puts its Q/DQ pairs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgevision.errors import ModelError, UsageError
from edgevision.export.graph import set_initializer
from edgevision.quantization.fake_quant import FakeQuant, fake_quantize_bias
from edgevision.quantization.insertion import QUANTIZED
from edgevision.quantization.integer_forms import GATE_STEPS, ends_where_flat
from edgevision.quantization.integer_layers import integer_layer, integer_layers
from edgevision.quantization.numbers import BIAS_LIMIT, activation_params, weight_params
from edgevision.quantization.placement import NOTHING, place
from edgevision.quantization.rules.base import Outcome
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.table import CalibrationTable, Float32, TensorRange
from edgevision.quantization.torch_graph import Step, TorchGraph
from edgevision.quantization.torch_ops.base import required


def with_weight_bits(scheme: Scheme, bits: int) -> Scheme:
    """``scheme`` with only ``bits`` of each weight in use, to learn such weights.

    They are emitted under the scheme itself: weights on a grid of 4 bits, with its scales in the
    table, give the same integers whatever the width that stores them.

    Raises:
        UsageError: fewer than 2 or more than 8.
    """
    if not 2 <= bits <= 8:
        raise UsageError(f"Weights have 2 to 8 bits, got {bits}.")
    weight = scheme.weight.model_copy(update={"bits": bits})
    return scheme.model_copy(update={"weight": weight})


class QuantizedTorchGraph(TorchGraph):
    """What ``emit`` would write for ``model``, ``table`` and ``scheme``, as a module that learns.

    In evaluation without gradients, layers of integers are computed as their kernels do.

    Weights, biases and step sizes are parameters. Corrections of biases in the table are taken
    into the biases at the start.

    Args:
        model: the float model that ``table`` was made from.
        table: gives the initial step sizes.
        scheme: gives placement and numbers.
        keep_float: as for ``emit``.
        step_rate: see ``FakeQuant``.

    Raises:
        ModelError: the table lacks a tensor, or there is no torch function for an operator.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        table: CalibrationTable,
        scheme: Scheme,
        keep_float: Mapping[str, str] = NOTHING,
        *,
        step_rate: float = 10.0,
    ) -> None:
        super().__init__(model)
        self.plan = place(model, scheme, keep_float)
        self.table, self.scheme, self.step_rate = table, scheme, step_rate
        self.activation_quant = nn.ModuleList()
        self.weight_quant = nn.ModuleList()
        self.group_of: dict[str, int] = {}
        self.weight_of: dict[str, int] = {}
        for name in sorted(self.plan.activations):
            if name not in self.group_of:
                self._add_group(name)
        for (position, slot), axis in sorted(self.plan.weights.items()):
            self._add_weight(self.steps[position].inputs[slot], axis)
        self._take_in_corrections()
        self.integer_layers = integer_layers(self.graph, self.plan)
        self.written_out = {
            position
            for position, step in enumerate(self.steps)
            if step.node.operator == "HardSwish"
            and "HardSwish" in scheme.integer_forms
            and self.plan.outcomes[position] is Outcome.INT8
        }

    def read(self, position: int, slot: int, name: str, values: dict[str, Tensor]) -> Tensor:
        place = (position, slot)
        if place in self.plan.weights:
            step = self.layer_step(position, slot)
            weight: Tensor = self.weight_quantizer(name)(values[name], step)
            return weight
        if self.plan.biases.get(position) == slot:
            scale = self._input_step(position) * self.layer_step(position, 1)
            return fake_quantize_bias(values[name], scale)
        if place not in self.plan.activations.get(name, ()):
            return values[name]
        key = f"{name}{QUANTIZED}"
        if key not in values:
            values[key] = self.activation_quantizer(name)(values[name])
        return values[key]

    def compute(
        self, position: int, step: Step, inputs: list[Tensor | None]
    ) -> Tensor | tuple[Tensor, ...]:
        if position in self.integer_layers and not (self.training or torch.is_grad_enabled()):
            return integer_layer(
                step,
                inputs,
                self._input_step(position),
                self.layer_step(position, 1),
                self.plan.weights[position, 1],
                self.activation_quantizer(self.integer_layers[position]).step(),
            )
        if position not in self.written_out or not self._ends_where_flat(step.inputs[0]):
            return super().compute(position, step, inputs)
        # As ``integer_forms`` writes it: the gate is rounded, too.
        value = required(inputs)
        gate = (value / 6 + 0.5).clamp(-1 / GATE_STEPS, 1) * GATE_STEPS
        return value * ((gate + (gate.round() - gate).detach()) / GATE_STEPS)

    def _ends_where_flat(self, name: str) -> bool:
        quantizer = self.activation_quantizer(name)
        step = quantizer.step().detach()
        lowest = (quantizer.limits[0] - quantizer.zero_point()) * step
        return ends_where_flat(float(lowest), float(step))

    def leave(self, name: str, value: Tensor) -> Tensor:
        if name not in self.plan.outputs:
            return value
        out: Tensor = self.activation_quantizer(name)(value)
        return out

    def forget(self, name: str, values: dict[str, Tensor]) -> None:
        super().forget(name, values)
        values.pop(f"{name}{QUANTIZED}", None)

    def activation_quantizer(self, name: str) -> FakeQuant:
        """The one of the activation tensor ``name``, shared by its scale group."""
        module = self.activation_quant[self.group_of[name]]
        assert isinstance(module, FakeQuant)
        return module

    def weight_quantizer(self, name: str) -> FakeQuant:
        """The one of the weights ``name``."""
        module = self.weight_quant[self.weight_of[name]]
        assert isinstance(module, FakeQuant)
        return module

    @torch.no_grad()
    def learned(self) -> tuple[onnx.ModelProto, CalibrationTable]:
        """What was learned, for emission.

        Returns:
            The float model with the new weights, those of quantized layers on their grids, and
            the table for it: bound to the bytes that ``save_onnx`` writes, with the scales of the
            weights, and ranges for this scheme alone. What was seen widens where a learned range
            is wider.
        """
        model = self.to_onnx()
        scales: dict[str, Float32] = {}
        for position, slot in sorted(self.plan.weights):
            name = self.steps[position].inputs[slot]
            step = self.layer_step(position, slot)
            weight = self.weight_quantizer(name)(self.constant(name), step)
            set_initializer(model, name, weight.cpu().contiguous().numpy())
            scales[name] = step.cpu().numpy()
        tensors = {name: self._range(name) for name in sorted(self.group_of)}
        table = replace(
            self.table,
            settings={**self.table.settings, "learned_for": self.scheme.name},
            onnx_sha256=file_digest(model),
            tensors=tensors,
            weight_scales=scales,
            corrections={},
        )
        return model, table

    def _range(self, name: str) -> TensorRange:
        """The range that ``activation_params`` turns into exactly the learned step."""
        quantizer = self.activation_quantizer(name)
        step = float(quantizer.step())
        seen = self.table.tensors[name]
        bottom, top = self.scheme.activation.limits
        if self.scheme.activation.symmetric:
            return replace(seen, amax=step * top, histogram=None)
        zero = float(quantizer.zero_point())
        low, high = (bottom - zero) * step, (top - zero) * step
        return replace(
            seen,
            minimum=min(seen.minimum, low),
            maximum=max(seen.maximum, high),
            low=low,
            high=high,
            histogram=None,
        )

    def _add_group(self, name: str) -> None:
        group = sorted(self.plan.scale_group(name))
        missing = [member for member in group if member not in self.table.tensors]
        if missing:
            raise ModelError(
                f"The calibration table has no entry for tensor '{missing[0]}'.",
                hint="Calibrate again with this version.",
            )
        self.group_of |= dict.fromkeys(group, len(self.activation_quant))
        dtype = np.iinfo(self.scheme.activation.dtype)
        params = activation_params([self.table.tensors[m] for m in group], self.scheme)
        quantizer = FakeQuant(
            params,
            (int(dtype.min), int(dtype.max)),  # what QuantizeLinear saturates at
            learn_zero_point=not self.scheme.activation.symmetric,
            largest=min(self._clip_step(member) for member in group),
            rate=self.step_rate,
        )
        self.activation_quant.append(quantizer)

    def _clip_step(self, name: str) -> float:
        """Largest step with which the range of ``name`` stays inside the Clip that made it.

        ONNX Runtime leaves out a Clip before a QuantizeLinear only if the latter clips as much.
        """
        node = self.graph.producers.get(name)
        if node is None or node.op_type != "Clip" or self.scheme.activation.symmetric:
            return math.inf
        bounds = [self.graph.constant(limit) for limit in node.input[1:3]]
        if len(bounds) < 2 or bounds[0] is None or bounds[1] is None or float(bounds[0]) != 0:
            return math.inf
        high = float(bounds[1])
        bottom, top = self.scheme.activation.limits
        step = np.float32(high / (top - bottom))
        inside = step * np.float32(top - bottom) <= np.float32(high)  # as ONNX Runtime computes it
        return float(step if inside else np.nextafter(step, np.float32(0)))

    def _add_weight(self, name: str, axis: int | None) -> None:
        if name in self.weight_of:
            if self.weight_quantizer(name).axis != axis:
                raise ModelError(f"Weights '{name}' are read with output channels on two axes.")
            return
        weight = self.graph.constant(name)
        assert weight is not None, f"the plan takes '{name}' for a constant"
        params = weight_params(
            weight, axis, self.scheme, learned=self.table.weight_scales.get(name)
        )
        limit = self.scheme.weight.limit
        quantizer = FakeQuant(params, (-limit, limit), axis=axis, wide=True, rate=self.step_rate)
        self.weight_of[name] = len(self.weight_quant)
        self.weight_quant.append(quantizer)

    def _take_in_corrections(self) -> None:
        corrections = self.table.corrections.get(self.scheme.name, {})
        for position, _ in self.plan.weights:
            step = self.steps[position]
            added = corrections.get(step.outputs[0])
            bias = self.parameter(step.inputs[2]) if len(step.inputs) > 2 else None
            if added is not None and bias is not None:
                bias.data += torch.from_numpy(added)

    def _input_step(self, position: int) -> Tensor:
        return self.activation_quantizer(self.steps[position].inputs[0]).step()

    def layer_step(self, position: int, slot: int) -> Tensor:
        """The step of a layer's weights, raised where its bias needs it (``weight_params``)."""
        inputs = self.steps[position].inputs
        quantizer = self.weight_quantizer(inputs[slot])
        step = quantizer.step()
        if position not in self.plan.biases:
            return step
        bias = self.constant(inputs[self.plan.biases[position]]).detach()
        needed = bias.abs().double() / (BIAS_LIMIT * self._input_step(position).detach().double())
        needed = needed if quantizer.axis is not None else needed.max()
        return torch.maximum(step.double(), needed).float()


def file_digest(model: onnx.ModelProto) -> str:
    """sha256 hex of the file that ``save_onnx`` writes."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
