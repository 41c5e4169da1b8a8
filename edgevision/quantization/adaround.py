"""AdaRound: learn for each weight whether to round it up or down (Nagel et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from torch import Tensor

from edgevision.errors import DataError, UsageError
from edgevision.export.graph import Graph
from edgevision.quantization.placement import NOTHING, place
from edgevision.quantization.quantized_torch import QuantizedTorchGraph, file_digest
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.table import CalibrationTable, Float32
from edgevision.quantization.torch_graph import Step, TorchGraph, float_graph_of

# The rectified sigmoid reaches a little beyond 0 and 1, so that it gets there (equation 23).
_BELOW, _ABOVE = -0.1, 1.1
_WARMUP = 0.2  # share of the iterations before the regulariser pulls
_BETA = (20.0, 2.0)  # its exponent, from first to last


@dataclass(frozen=True)
class AdaRoundConfig:
    """How rounding is learned.

    Attributes:
        iterations: steps of Adam for each layer.
        batch_size: images a step.
        learning_rate: of Adam, on what the rectified sigmoid is taken of.
        regularization: weight of the term that drives each choice to 0 or 1.
        images: most images whose activations are held for one layer.
        megabytes: most memory that they take.
        seed: of the order of the images.
    """

    iterations: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    regularization: float = 0.01
    images: int = 512
    megabytes: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.iterations, self.batch_size, self.images, self.megabytes)
        if least < 1 or self.learning_rate <= 0 or self.regularization < 0:
            raise UsageError(f"AdaRound: expected positive settings, got {self}.")


def adaround(
    model: onnx.ModelProto,
    table: CalibrationTable,
    scheme: Scheme,
    batches: Iterable[Float32],
    *,
    config: AdaRoundConfig | None = None,
    keep_float: Mapping[str, str] = NOTHING,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[onnx.ModelProto, CalibrationTable]:
    """Round the weights of every quantized layer so that its output stays what it was.

    Layer by layer in the graph's order: the layer's input comes from the quantized network so
    far, the output it should give from the float network. Scales of weights are those of least
    squared error, unless the table holds learned ones.

    Args:
        model: the float model that ``table`` was made from.
        table: of any calibrator.
        scheme: gives placement and numbers; see ``with_weight_bits`` for fewer bits.
        batches: (N, C, H, W) float32 calibration images, preprocessed; read once.
        keep_float: as for ``emit``.
        progress: called with layers done and layers in all.

    Returns:
        The model with its weights on their grids, and the table bound to it: the same ranges of
        activations, with the weights' scales. Emit it with the same scheme, whatever its bits.

    Raises:
        DataError: no images.
        ModelError: an operator that there is no torch function for.
    """
    config = config or AdaRoundConfig()
    images = _first_images(batches, config.images)
    scales = mse_scales(model, scheme, keep_float) | dict(table.weight_scales)
    start = replace(table, weight_scales=scales)
    graph = QuantizedTorchGraph(model, start, scheme, keep_float).eval()
    graph.requires_grad_(False)
    reference = float_graph_of(model)
    places = sorted(graph.plan.weights)
    done: set[str] = set()
    for number, (position, slot) in enumerate(places):
        name = graph.steps[position].inputs[slot]
        if name not in done:  # weights that several layers read are rounded for the first
            _round_layer(graph, reference, position, slot, images, config)
            done.add(name)
        if progress is not None:
            progress(number + 1, len(places))
    rounded, learned = graph.learned()
    return rounded, replace(
        table,
        settings={**table.settings, "adaround": config.iterations},
        onnx_sha256=file_digest(rounded),
        weight_scales=learned.weight_scales,
        corrections={},
    )


def mse_scales(
    model: onnx.ModelProto, scheme: Scheme, keep_float: Mapping[str, str] = NOTHING
) -> dict[str, Float32]:
    """Scales of least squared rounding error for all weights that ``scheme`` quantizes.

    Each channel's is searched between a fifth and all of what its largest weight asks for: with
    few bits it pays to clip the few large weights.
    """
    graph = Graph(model)
    limit = scheme.weight.limit
    found: dict[str, Float32] = {}
    for (position, slot), axis in sorted(place(model, scheme, keep_float).weights.items()):
        name = graph.nodes[position].input[slot]
        weight = graph.constant(name)
        assert weight is not None, f"the plan takes '{name}' for a constant"
        rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        whole = np.maximum(np.abs(rows).max(1, keepdims=True) / limit, 1e-10)
        best, least = whole, np.full_like(whole, np.inf)
        for share in np.linspace(1.0, 0.2, 81):
            scale = whole * share
            integers = np.clip(np.rint(rows / scale), -limit, limit)
            error = np.square(rows - integers * scale).sum(1, keepdims=True)
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
        found[name] = (best[0, 0] if axis is None else best[:, 0]).astype(np.float32)
    return {name: np.asarray(scale) for name, scale in found.items()}


def _first_images(batches: Iterable[Float32], most: int) -> Tensor:
    taken: list[Tensor] = []
    left = most
    for batch in batches:
        taken.append(torch.from_numpy(np.array(batch[:left])))
        left -= len(taken[-1])
        if left <= 0:
            break
    if not taken:
        raise DataError("AdaRound wants calibration images, none were given.")
    return torch.cat(taken)


@torch.no_grad()
def _pairs(
    graph: QuantizedTorchGraph,
    reference: TorchGraph,
    position: int,
    source: str,
    images: Tensor,
    config: AdaRoundConfig,
) -> tuple[Tensor, Tensor]:
    """Inputs of a layer in the quantized network, and its outputs in the float one."""
    target = graph.steps[position].outputs[0]
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    held = 0
    for batch in torch.split(images, config.batch_size):
        values = graph(batch, keep=[source])
        routed = (position, graph.steps[position].inputs.index(source))
        value = values[source]
        if routed in graph.plan.activations.get(source, ()):
            value = graph.activation_quantizer(source)(value)
        inputs.append(value)
        outputs.append(reference(batch, keep=[target])[target])
        held += inputs[-1].nbytes + outputs[-1].nbytes
        if held >= config.megabytes << 20:
            break
    return torch.cat(inputs), torch.cat(outputs)


def _round_layer(
    graph: QuantizedTorchGraph,
    reference: TorchGraph,
    position: int,
    slot: int,
    images: Tensor,
    config: AdaRoundConfig,
) -> None:
    step = graph.steps[position]
    weights, bias = step.inputs[slot], step.inputs[2] if len(step.inputs) > 2 else ""
    values = graph.named_values()
    inputs, outputs = _pairs(graph, reference, position, step.inputs[1 - slot], images, config)
    quantizer = graph.weight_quantizer(weights)
    axis, limits = quantizer.axis, quantizer.limits
    # 0-d, or in the shape that broadcasts over the weights.
    scale = graph.layer_step(position, slot)
    if axis is not None:
        scale = scale.reshape([-1 if a == axis else 1 for a in range(values[weights].ndim)])
    scaled = values[weights] / scale
    floor = scaled.floor()
    rest = ((scaled - floor - _BELOW) / (_ABOVE - _BELOW)).clamp(1e-4, 1 - 1e-4)
    choice = torch.logit(rest).requires_grad_(True)
    optimizer = torch.optim.Adam([choice], lr=config.learning_rate)
    order = torch.Generator().manual_seed(config.seed)
    for iteration in range(config.iterations):
        chosen = torch.randint(len(inputs), (config.batch_size,), generator=order)
        up = _rectified(choice)
        rounded = (floor + up).clamp(*limits) * scale
        made = _run(step, slot, inputs[chosen], rounded, values.get(bias))
        channel = -1 if step.node.operator in ("MatMul", "Gemm") else 1
        loss = (made - outputs[chosen]).square().sum(channel).mean()
        past = (iteration / config.iterations - _WARMUP) / (1 - _WARMUP)
        if past > 0:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - past)
            loss = loss + config.regularization * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    integers = (floor + (_rectified(choice.detach()) >= 0.5)).clamp(*limits)
    parameter = graph.parameter(weights)
    assert parameter is not None, f"'{weights}' are weights"
    parameter.data.copy_(integers * scale)


def _rectified(choice: Tensor) -> Tensor:
    return (torch.sigmoid(choice) * (_ABOVE - _BELOW) + _BELOW).clamp(0, 1)


def _run(step: Step, slot: int, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    factors = (weight, value) if slot == 0 else (value, weight)
    out = step.op(step.node, [*factors, bias] if bias is not None else list(factors))
    assert isinstance(out, Tensor)
    return out
