"""Fronts as measuring might give them."""

from __future__ import annotations

from typing import Any

from edgevision.benchmark.front import Front, FrontRow, fastest_within, marked
from edgevision.benchmark.report_schema import ComparisonSection, RatioRow, StatsRow

BASE = 0.94  # ms of FP32


def row(name: str, accuracy: float, milliseconds: float, **more: Any) -> FrontRow:
    speed = BASE / milliseconds
    values: dict[str, Any] = {
        "kind": "pruned + INT8",
        "artifact": "model.int8.x86-vnni.onnx",
        "drop": 94.0 - accuracy,
        "speedup": speed,
        "low": 0.98 * speed,
        "high": 1.02 * speed,
        "steady": True,
        "bytes": 300_000,
        "within_budget": 94.0 - accuracy <= 0.5,
        "passed": 94.0 - accuracy <= 0.5,
    }
    return FrontRow(name=name, accuracy=accuracy, latency_p50_ms=milliseconds, **{**values, **more})


def front(*rows: FrontRow, budget: float = 0.5) -> Front:
    found = marked(rows)
    stats = {
        r.name: StatsRow(
            samples=900,
            latency_p50_ms=r.latency_p50_ms,
            latency_p90_ms=r.latency_p50_ms,
            latency_p99_ms=r.latency_p50_ms,
            latency_mean_ms=r.latency_p50_ms,
            latency_min_ms=r.latency_p50_ms,
            latency_max_ms=r.latency_p50_ms,
            throughput=1000 / r.latency_p50_ms,
        )
        for r in found
    }
    ratios = {r.name: RatioRow(value=r.speedup, low=r.low, high=r.high) for r in found[1:]}
    return Front(
        model="fastnet",
        data="cifar10",
        target="cpu",
        metric="top1",
        images=10_000,
        budget=budget,
        rows=found,
        fastest_within=fastest_within(found[1:]),
        latency=ComparisonSection(
            baseline="FP32", runs=stats, ratios=ratios, protocol={"rounds": 900}
        ),
    )


def six() -> Front:
    """As a well-trained network gives it: flat at first, then steep; one point is dominated."""
    widths = {f"layers.{k}.conv": (64, 64 - 8 * k) for k in range(1, 5)}
    return front(
        row("FP32", 94.0, BASE, kind="FP32", artifact="model.fp32.onnx", bytes=1_200_000,
            macs=41_000_000),
        row("front-1", 93.97, 0.31, kind="INT8 only", macs=41_000_000),
        row("front-2", 93.99, 0.235, asked=4.0, macs=30_000_000, widths=widths, bytes=250_000),
        row("front-3", 93.74, 0.178, asked=5.3, macs=21_000_000, widths=widths, bytes=200_000),
        row("front-4", 93.58, 0.135, asked=7.0, macs=14_000_000, widths=widths, bytes=150_000),
        row("front-5", 92.61, 0.139, asked=9.2, macs=11_000_000, widths=widths, bytes=120_000,
            reached=False),
        row("front-6", 91.20, 0.078, asked=12.1, macs=5_000_000, widths=widths, bytes=80_000),
    )  # fmt: skip
