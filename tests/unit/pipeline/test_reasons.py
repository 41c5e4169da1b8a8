"""Lines that name the layers behind a failed verdict."""

from __future__ import annotations

from edgevision.benchmark.report_schema import LayerRow
from edgevision.pipeline.reasons import accuracy_reasons, speed_reasons


def row(name, operator="Conv", asked="int8", used="int8", ms=1.0, **more):
    return LayerRow(name=name, operator=operator, asked=asked, used=used, time_ms=ms, **more)


def test_the_noisiest_layers_come_first_with_what_is_known():
    rows = [
        row("a", sqnr_db=30.0),
        row("b", sqnr_db=9.04, amax=123.456, saturated=0.02, trait="depthwise"),
        row("c", sqnr_db=20.0, amax=1.0, saturated=0.0001),
        row("d"),
    ]
    assert accuracy_reasons(rows, 2) == [
        "Costs accuracy: 'b' (Conv, SQNR 9.0 dB, amax 123, 2 % of its inputs clipped, depthwise).",
        "Costs accuracy: 'c' (Conv, SQNR 20.0 dB, amax 1).",
    ]
    assert accuracy_reasons([row("d")]) == []


def test_each_cause_is_told_once_the_costliest_first():
    rows = [
        row("q", "QuantizeLinear", None, "fp32", 2.0),
        row("stem", ms=4.0, trait="3 input channels"),
        row("dw", ms=3.0, trait="depthwise"),
        row("dq", "DequantizeLinear", None, "int8", 2.0),
        row("swish", "HardSwish", "float", "fp32", 8.0, reason="no rule"),
        row("reorder", "ReorderInput", None, "fp32", 0.5),
        row("refused", used="fp32", ms=5.0),
        row("wide", ms=2.5),
        row("fast", ms=2.0),
        row("softmax", "Softmax", "float", "fp32", 1.0),
    ]
    before = [row(name, asked=None, used="fp32", ms=2.2) for name in ("stem", "dw", "wide", "fast")]
    assert speed_reasons(rows, before) == [
        "Blocked fusion: float between INT8 layers, each converted to and fro: 'swish', "
        "27 % of the time.",
        "Precision not honoured: INT8 was asked for and another one used in 'refused', "
        "17 % of the time.",
        "Reformat: conversions between float and INT8: 'q', 'dq', 13 % of the time.",
        "Too few channels to fill integer kernels: 'stem', 13 % of the time.",
        "Depthwise, too little work to pay for INT8: 'dw', 10 % of the time.",
        "Slower in INT8 than in float: 'wide', 8 % of the time.",
        "Reformat: tensors put into another order: 'reorder', 2 % of the time.",
    ]


def test_without_times_or_faults():
    many = [row(f"r{i}", used="fp32", ms=None) for i in range(5)]
    assert speed_reasons(many) == [
        "Precision not honoured: INT8 was asked for and another one used in "
        "'r0', 'r1', 'r2' and 2 more."
    ]
    assert speed_reasons([row("a"), row("b")]) == []
