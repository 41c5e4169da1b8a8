"""Quantize and dequantize in floating point, with a step size that is learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgevision.quantization.numbers import QuantParams


class FakeQuant(nn.Module):
    """``(clamp(round(x / step) + zero_point) - zero_point) * step``, as the integer graph has it.

    The step size is learned (LSQ, Esser et al. 2020): gradients pass straight through the
    rounding inside the range, and the step's own is scaled by ``1 / sqrt(values * limit)``. What
    is learned is the logarithm of its change, so a step stays positive and starts exactly at the
    calibrated one. The zero point of asymmetric activations is learned as the offset of LSQ+
    (Bhalgat et al. 2020), rounded to an integer in the forward pass: zero stays exact.

    Args:
        params: where to start; scale 0-d, or (C,) on ``axis``.
        limits: smallest and largest integer.
        axis: of the scales, None for one scale.
        wide: divide in float64, as weights are rounded (``numbers.quantize``), instead of float32
            as QuantizeLinear does.
        learn_zero_point: only of use where it starts inside ``limits``: at a limit it stays, so
            that a Relu in front still vanishes into the clamping.
        largest: bound on the step, for a range that must not outgrow a Clip.
        rate: how many times faster than the weights, under an optimizer like Adam that takes
            steps of the same size for all, the logarithm of the step moves.
    """

    start: Tensor
    start_zero: Tensor

    def __init__(
        self,
        params: QuantParams,
        limits: tuple[int, int],
        *,
        axis: int | None = None,
        wide: bool = False,
        learn_zero_point: bool = False,
        largest: float = math.inf,
        rate: float = 10.0,
    ) -> None:
        super().__init__()
        self.limits, self.axis, self.wide = limits, axis, wide
        self.largest, self.rate = largest, rate
        scale = torch.from_numpy(params.scale.copy())
        self.register_buffer("start", scale)
        zero = torch.from_numpy(params.zero_point.astype("float32"))
        self.register_buffer("start_zero", zero)
        self.change = nn.Parameter(torch.zeros_like(scale))
        self.shift: nn.Parameter | None = None
        if learn_zero_point and limits[0] < int(params.zero_point) < limits[1]:
            self.shift = nn.Parameter(torch.zeros_like(zero))

    def step(self) -> Tensor:
        """The step size, float32, 0-d or (C,)."""
        step = self.start * torch.exp(self.rate * self.change)
        if self.largest == math.inf:
            return step
        # Exactly the bound, but with a gradient, so that it may come down again.
        return torch.where(step > self.largest, self.largest * (step / step.detach()), step)

    def zero(self) -> Tensor:
        """The zero point before rounding, float32."""
        if self.shift is None:
            return self.start_zero
        # A relative change of the range shifts both its ends by as many integers.
        span = self.limits[1] - self.limits[0]
        return self.start_zero + span * self.rate * self.shift

    def zero_point(self) -> Tensor:
        """The integer zero point, as float32."""
        return self.zero().detach().round().clamp(*self.limits)

    def forward(self, value: Tensor, step: Tensor | None = None) -> Tensor:
        """Fake-quantize ``value``, float32 of any shape; ``step`` instead of its own if given."""
        step = self.step() if step is None else step
        out: Tensor = _Quantize.apply(value, step, self.zero(), self.limits, self.axis, self.wide)
        return out


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        step: Tensor,
        zero: Tensor,
        limits: tuple[int, int],
        axis: int | None,
        wide: bool,
    ) -> Tensor:
        ctx.save_for_backward(value, step, zero)
        ctx.limits, ctx.axis, ctx.wide = limits, axis, wide
        step, zero = _shaped(step, value, axis), _integer(zero, value, limits, axis)
        whole = _integers(value, step, zero, limits, wide)[1]
        return (whole - zero).to(value.dtype) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # PyTorch's own kernels: one pass over the values instead of a dozen.
        (gradient,) = gradients
        value, step, zero = ctx.saved_tensors
        lowest, highest = ctx.limits
        rate = 1 / math.sqrt(value.numel() / step.numel() * highest)
        whole = zero.round().clamp(lowest, highest)
        per, axis = "tensor", []
        if ctx.axis is not None:
            per, axis = "channel", [ctx.axis]
            whole = whole.expand_as(step).contiguous()
        kernel = getattr(torch.ops.aten, f"_fake_quantize_learnable_per_{per}_affine_backward")
        of_value, of_step, of_zero = kernel(
            gradient.contiguous(),
            value,
            step.reshape(-1),
            whole.reshape(-1),
            *axis,
            *ctx.limits,
            rate,
        )
        of_zero = of_zero.reshape(zero.shape) if ctx.needs_input_grad[2] else None
        return (of_value, of_step.reshape(step.shape), of_zero, None, None, None)


def _integers(
    value: Tensor, step: Tensor, zero: Tensor, limits: tuple[int, int], wide: bool
) -> tuple[Tensor, Tensor]:
    """The integers of ``value`` before and after clamping."""
    scaled = value.double() / step.double() if wide else value / step
    rounded = scaled.round() + zero
    return rounded, rounded.clamp(*limits)


def _shaped(per_channel: Tensor, value: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return per_channel
    shape = [1] * value.ndim
    shape[axis] = -1
    return per_channel.reshape(shape)


def _integer(zero: Tensor, value: Tensor, limits: tuple[int, int], axis: int | None) -> Tensor:
    zero = zero.round().clamp(*limits)
    return zero if zero.ndim == 0 else _shaped(zero, value, axis)


def fake_quantize_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """Round ``bias`` to int32 on ``scale`` and back; the gradient passes straight through.

    Args:
        bias: (C,) float32.
        scale: 0-d or (C,) float32, input scale times weight scale; not learned through this.
    """
    out: Tensor = _RoundBias.apply(bias, scale.detach())
    return out


class _RoundBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, scale: Tensor) -> Tensor:
        limits = torch.iinfo(torch.int32)
        whole = (bias.double() / scale.double()).round().clamp(limits.min, limits.max)
        return whole.to(bias.dtype) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (gradients[0], None)
