"""Which division is taken, from measured times."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.backends import get_backend
from edgevision.benchmark import BenchConfig, compare
from edgevision.export import save_onnx
from edgevision.pipeline.divide import fastest, find_division
from edgevision.quantization import calibrate, emit


def comparison(**ms):
    """Real comparison of runs that each take their own, almost steady, time on a clock of ours."""
    now = [0]
    random = np.random.default_rng(0)

    def run(name):
        def call():
            now[0] += int(ms[name] * 1e6 * (1 + 0.01 * random.random()))

        return call

    return compare(
        {name: run(name) for name in ms},
        baseline="int8",
        config=BenchConfig(seconds=5, min_rounds=30),
        clock=lambda: now[0],
    )


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float": 3.0, "int8": 2.0, "division-0": 1.5, "division-1": 1.2}, "division-1"),
        ({"float": 3.0, "int8": 2.0, "division-0": 1.99}, None),  # may be luck
        ({"float": 3.0, "int8": 2.0, "division-0": 2.5}, None),
        ({"float": 1.0, "int8": 2.0, "division-0": 1.5}, None),  # float is faster still
    ],
)
def test_the_fastest_division_is_taken_where_it_is_worth_it(times, chosen):
    assert fastest(comparison(**times)) == chosen


def test_a_division_that_is_taken_was_measured_and_its_report_says_why(make_model, tmp_path):
    """A network that INT8 slows down: depthwise layers and hard-swish at a size that matters."""

    def weights(*shape):
        return np.random.default_rng(1).normal(size=shape).astype(np.float32) * 0.2

    model = make_model(
        "(float[n,64,28,28] x) => (float[n,64,28,28] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w1, b)  r = Relu (a)  c = Conv <pads=[1,1,1,1]> (r, w1, b)"
        "  h = HardSwish (c)  d = Conv <pads=[1,1,1,1], group=64> (h, w2, b)  k = HardSwish (d)"
        "  e = Conv <pads=[1,1,1,1], group=64> (k, w2, b)  y = HardSwish (e) }",
        w1=weights(64, 64, 3, 3),
        w2=weights(64, 1, 3, 3),
        b=weights(64),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    path, int8 = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    save_onnx(model, path)
    x = np.random.default_rng(5).normal(size=(4, 64, 28, 28)).astype(np.float32)
    table = calibrate(path, [x], method="minmax", threads=1)
    emit(path, table, "x86-vnni", int8)
    found = find_division(
        path,
        int8,
        table,
        "x86-vnni",
        get_backend("onnxruntime"),
        {"x": x[:1]},
        tmp_path,
        threads=1,
        seconds=1.0,
    )
    names = [row["name"] for row in found.tried]
    if not names:  # by this run's kernel times no division was worth a try
        assert found.path is None
        return
    assert names[:2] == ["float", "int8"]
    assert all(row["latency_p50_ms"] > 0 for row in found.tried)
    if found.path is None:  # another machine, another answer
        return
    times = {row["name"]: row["latency_p50_ms"] for row in found.tried}
    assert min(times, key=times.__getitem__) == found.path.stem
    assert found.report is not None
    reasons = {node.reason for node in found.report.nodes if node.asked == "float"}
    assert any("slower in INT8 here" in reason or "convert" in reason for reason in reasons)
