"""Fake quantization is Q/DQ bit for bit; its gradients pass straight through the rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from edgevision.quantization.fake_quant import FakeQuant, fake_quantize_bias
from edgevision.quantization.numbers import QuantParams, quantize, quantize_bias


def on_runtime(values: np.ndarray, params: QuantParams, axis: int) -> np.ndarray:
    kind = helper.np_dtype_to_tensor_dtype(params.zero_point.dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    shape = list(values.shape)
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            onnx.numpy_helper.from_array(params.scale, "s"),
            helper.make_tensor("z", kind, params.zero_point.shape, params.zero_point.flatten()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": values})[0]


def hard_values(scale: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(3, 600): random ones, ties between two integers, their neighbours, far outside."""
    ties = (np.arange(-150, 150) + 0.5).astype(np.float32) * np.float32(scale.max())
    values = np.concatenate([ties, np.nextafter(ties[:150], 0), random.normal(size=150) * 3])
    return np.stack([values, values * 0.01, values * 100]).astype(np.float32)


@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("uint8", 0), ("uint8", 117)])
@pytest.mark.parametrize("channels", [0, 3])
def test_forward_is_qdq_bit_for_bit(
    dtype: str, zero: int, channels: int, random: np.random.Generator
) -> None:
    shape = (channels,) if channels else ()
    scale = random.uniform(0.01, 0.2, shape).astype(np.float32)
    params = QuantParams(np.asarray(scale), np.full(shape, zero, dtype))
    values = hard_values(np.asarray(scale), random)
    info = np.iinfo(dtype)
    axis = 0 if channels else None
    fake = FakeQuant(params, (int(info.min), int(info.max)), axis=axis)
    got = fake(torch.from_numpy(values)).detach().numpy()
    assert np.array_equal(got, on_runtime(values, params, 0))


def test_weights_and_biases_round_as_emission_does(random: np.random.Generator) -> None:
    weight = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    scale = random.uniform(0.05, 0.4, 4).astype(np.float32)
    weight[0, 0, 0] = np.float32(2.5) * scale[0]
    params = QuantParams(scale, np.zeros(4, np.int8))
    fake = FakeQuant(params, (-7, 7), axis=0, wide=True)
    wanted = quantize(weight, params, 0, 7) * scale.reshape(-1, 1, 1, 1)
    assert np.array_equal(fake(torch.from_numpy(weight)).detach().numpy(), wanted)
    bias = random.normal(size=4).astype(np.float32)
    small = scale * np.float32(1e-3)
    got = fake_quantize_bias(torch.from_numpy(bias), torch.from_numpy(small)).numpy()
    assert np.array_equal(got, quantize_bias(bias, small).astype(np.float32) * small)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_step_for_each_channel(axis: int, layout: torch.memory_format) -> None:
    """Against LSQ's equation 3 in numpy, each channel by itself."""
    random = np.random.default_rng(3)
    value = random.normal(size=(4, 6, 5, 3)).astype(np.float32)
    weight = random.normal(size=value.shape).astype(np.float32)  # of the loss
    scale = random.uniform(0.01, 0.3, value.shape[axis]).astype(np.float32)
    params = QuantParams(scale, np.zeros(len(scale), np.int8))
    fake = FakeQuant(params, (-7, 7), axis=axis, rate=2.0, wide=True)
    tensor = torch.from_numpy(value).contiguous(memory_format=layout).requires_grad_()
    (fake(tensor) * torch.from_numpy(weight)).sum().backward()
    by_channel = np.moveaxis(value, axis, 0) / scale.reshape(-1, 1, 1, 1)
    rounded = np.rint(by_channel)
    inside = np.abs(rounded) <= 7
    slope = np.where(inside, rounded - by_channel, np.clip(rounded, -7, 7))
    gradient = np.moveaxis(weight, axis, 0)
    count = value.size / len(scale)
    of_step = (slope * gradient).sum((1, 2, 3)) / np.sqrt(count * 7)
    assert tensor.grad is not None
    assert np.array_equal(tensor.grad.numpy(), np.moveaxis(inside * gradient, 0, axis))
    assert fake.change.grad is not None
    np.testing.assert_allclose(
        fake.change.grad.numpy(), of_step * scale * 2.0, rtol=1e-4, atol=1e-6
    )


def test_gradients_of_values_and_step() -> None:
    # Inside, its rounding error; outside, the limit: the derivatives of LSQ's equation 3.
    values = torch.tensor([0.26, -0.9, 5.0, -5.0], requires_grad=True)
    fake = FakeQuant(QuantParams(np.array(0.5, np.float32), np.array(0, np.int8)), (-4, 3), rate=1)
    fake(values).sum().backward()
    assert values.grad.tolist() == [1, 1, 0, 0]
    of_step = (1 - 0.52) + (-2 + 1.8) + 3 - 4
    # In the logarithm it is multiplied by the step, and scaled by 1 / sqrt(values * limit).
    assert fake.change.grad.item() == pytest.approx(of_step * 0.5 / np.sqrt(4 * 3), rel=1e-5)


def test_step_moves_as_the_output_does() -> None:
    """Where nothing is rounded to another integer, the derivative is the real one."""
    fake = FakeQuant(
        QuantParams(np.array(0.5, np.float32), np.array(3, np.uint8)),
        (0, 7),
        rate=1,
        learn_zero_point=True,
    )
    values = torch.tensor([9.0, 12.0, -7.0])  # all clipped: the output depends on the step alone
    fake(values).sum().backward()
    scale = np.sqrt(3 * 7)
    with torch.no_grad():
        before = fake(values).double().sum()
        fake.change += 1e-3
        slope = (fake(values).double().sum() - before) / 1e-3
        assert fake.change.grad.item() * scale == pytest.approx(slope.item(), rel=1e-2)
        fake.change -= 1e-3
        before = fake(values).sum()
        fake.shift += 1 / 7  # one integer
        slope = fake(values).sum() - before
    assert fake.shift.grad.item() * scale / 7 == pytest.approx(slope.item(), rel=1e-4)
    assert fake.zero_point().item() == 4


def test_zero_point_at_a_limit_stays_and_step_obeys_its_bound() -> None:
    params = QuantParams(np.array(0.02, np.float32), np.array(0, np.uint8))
    fake = FakeQuant(params, (0, 255), learn_zero_point=True, largest=0.0225, rate=1)
    assert fake.shift is None
    with torch.no_grad():
        fake.change += 1
    step = fake.step()
    assert step.item() == np.float32(0.0225)
    fake(torch.tensor([0.1, 9.0])).sum().backward()
    assert fake.change.grad.item() != 0
