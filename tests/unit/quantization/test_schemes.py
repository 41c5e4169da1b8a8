"""Schemes as data: inheritance, and the numbers that each kind of processor wants."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.quantization import get_scheme
from edgevision.quantization.numbers import activation_params, quantize, weight_params
from edgevision.quantization.schemes import merged
from edgevision.quantization.table import TensorRange


def test_a_scheme_gives_only_what_differs_from_another():
    base = {"a": 1, "rules": {"Conv": "weighted", "Add": "residual"}, "lint": ["scale"]}
    changes = {"rules": {"Add": None, "Mul": "elementwise"}, "lint": ["weight-axis"]}
    assert merged(base, changes) == {
        "a": 1,
        "rules": {"Conv": "weighted", "Mul": "elementwise"},
        "lint": ["weight-axis"],
    }
    assert base["rules"]["Add"] == "residual"


@pytest.mark.parametrize("name", ["x86", "arm"])
def test_onnxruntime_schemes_differ_in_numbers_alone(name):
    scheme, base = get_scheme(name), get_scheme("x86-vnni")
    assert scheme.name == name
    assert scheme.summary != base.summary
    same = ("rules", "lint", "quantized_outputs", "shared_scale", "fused_activations", "bias")
    assert [getattr(scheme, field) for field in same] == [getattr(base, field) for field in same]


def test_x86_without_vnni_cannot_saturate_int16():
    scheme = get_scheme("x86")
    weight = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    params = weight_params(weight, 0, scheme)
    worst = np.abs(quantize(weight, params, 0, scheme.weight.limit).astype(int)).max()
    assert worst == 63
    assert 2 * scheme.activation.limits[1] * worst <= np.iinfo(np.int16).max
    assert 2 * 255 * get_scheme("x86-vnni").weight.limit > np.iinfo(np.int16).max


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-0.4, 6.0), (-1.0, 1.0), (-3.0, 0.0)])
def test_arm_uses_all_of_int8_for_a_lopsided_range(low, high):
    found = TensorRange(low, high, low, high, max(-low, high), 10)
    scale, zero_point = activation_params([found], get_scheme("arm"))
    assert zero_point.dtype == np.int8
    ends = np.rint(np.array([low, high]) / float(scale)) + int(zero_point)
    np.testing.assert_allclose(ends, [-128, 127], atol=1)
