"""Fills the report from the stages' results."""

from __future__ import annotations

from typing import Any

from edgevision.benchmark.report_schema import (
    CandidateRow,
    ComparisonSection,
    DataSection,
    ModelSection,
    PruningRow,
    PruningSection,
    QuantizationSection,
    Report,
    SizeRow,
)
from edgevision.bundle import AccuracyVerdict, LatencyVerdict, Verdict
from edgevision.pipeline.assemble import lineage
from edgevision.pipeline.candidates import BASELINE, emission, graphs
from edgevision.pipeline.job import Job
from edgevision.pipeline.layers import graph_layers, graph_nodes
from edgevision.pipeline.stages.prune import ROUNDS
from edgevision.pipeline.stages.recover import emission_of
from edgevision.pipeline.timing import removed_blocks


def verdict_of(job: Job) -> Verdict:
    """The verify stage's verdict as the manifest keeps it."""
    figures = job.done("verify").json("verify.json")
    told = figures["verdict"]
    base, row = figures["rows"][0], _row(figures, told["shipped"])
    drop = base["accuracy"] - row["accuracy"]
    speed = row["speed"]
    return Verdict(
        passed=told["passed"],
        exit_code=told["exit_code"],
        reasons=tuple(told["reasons"]),
        accuracy=AccuracyVerdict(
            metric=figures["metric"],
            baseline=base["accuracy"],
            candidate=row["accuracy"],
            drop=drop,
            budget=job.recipe.verify.max_accuracy_drop,
            n_images=figures["images"],
            per_class={
                label: (before, after)
                for label, before, after in zip(
                    job.data.labels, base["per_class"], row["per_class"], strict=True
                )
            }
            or None,
        ),
        latency=LatencyVerdict(
            baseline=base["speed"]["latency_p50_ms"],
            candidate=speed["latency_p50_ms"],
            ratio=speed["speedup"],
            low=speed["low"],
            high=speed["high"],
        )
        if speed
        else None,
    )


def build_report(job: Job) -> Report:
    """Everything that the stages found, as the page and ``report.json`` show it."""
    from edgevision.devices import environment

    figures = job.done("verify").json("verify.json")
    shipped = figures["verdict"]["shipped"]
    comparison = figures["comparison"]
    quantized = "quantize" in job.results
    return Report(
        title=f"{job.recipe.model} on {job.target.name}",
        model=ModelSection(
            reference=job.recipe.model,
            task=job.recipe.task,
            input=_input(job),
            classes=len(job.data.labels),
            **_costs(job),
        ),
        data=DataSection(
            reference=job.recipe.data,
            train_images=len(job.data.train),
            validation_images=len(job.data.validation),
            calibration_images=_calibration_images(job),
        ),
        target=job.target.name,
        verdict=verdict_of(job),
        candidates=tuple(_candidate(row, figures, shipped) for row in figures["rows"]),
        latency=ComparisonSection.model_validate(comparison) if comparison else None,
        layers=graph_layers(job, shipped),
        pruning=_pruning(job),
        quantization=_quantization(job, shipped) if quantized else None,
        sizes=tuple(
            SizeRow(name=r["name"], bytes=r["size"], role=_role(r["name"], shipped))
            for r in figures["rows"]
        ),
        environment=comparison["environment"] if comparison else environment(),
        lineage=lineage(job),
    )


def _input(job: Job) -> str:
    axes = [job.fixed_batch or "batch", *job.preprocessing.input_shape]
    return f"float32[{', '.join(map(str, axes))}]"


def _costs(job: Job) -> dict[str, tuple[int, int]]:
    """Parameters and MACs before and after, where the network was pruned."""
    if "prune" not in job.results:
        return {}
    table = job.done("prune").json("table.json")
    return {
        "parameters": (table["params_before"], table["params_after"]),
        "macs": (table["macs_before"], table["macs_after"]),
    }


def _row(figures: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in figures["rows"] if row["name"] == name)


def _role(name: str, shipped: str) -> str:
    if name == BASELINE:
        return "baseline"
    return "shipped" if name == shipped else "candidate"


def _candidate(row: dict[str, Any], figures: dict[str, Any], shipped: str) -> CandidateRow:
    speed = row["speed"] or {}
    return CandidateRow(
        name=row["name"],
        accuracy=row["accuracy"],
        drop=figures["rows"][0]["accuracy"] - row["accuracy"],
        latency_p50_ms=speed.get("latency_p50_ms"),
        ratio=speed.get("speedup"),
        low=speed.get("low"),
        high=speed.get("high"),
        bytes=row["size"],
        shipped=row["name"] == shipped,
        note="FP32 baseline" if row["name"] == BASELINE else "",
    )


def _pruning(job: Job) -> PruningSection | None:
    if "prune" not in job.results:
        return None
    table = job.done("prune").json("table.json")
    rows = [
        PruningRow(layer=r["name"], before=r["channels_before"][1], after=r["channels_after"][1])
        for r in table["layers"]
    ]
    facts = {k: v for k, v in table.items() if k not in ("layers", "whole")}
    if gone := removed_blocks(job):
        facts["blocks removed"] = ", ".join(gone)
    for number, figures in enumerate(job.done("prune").json(ROUNDS), 1):
        told = (f"{what} {value[job.task.metric_name]:.2f} %" for what, value in figures)
        facts[f"round {number}"] = ", ".join(told)
    return PruningSection(facts=facts, rows=tuple(rows))


def _calibration_images(job: Job) -> int | None:
    if "quantize" not in job.results:
        return None
    count: int = job.done("quantize").json("calibration-set.json")["count"]
    return count


def _recovery(job: Job) -> dict[str, str]:
    """What was tried where INT8 missed the budget, with the accuracy that each step gave."""
    assert job.recipe.quantize is not None
    if "recover" not in job.results:
        return {}
    told = job.done("recover").json("recover.json")
    steps = {job.recipe.quantize.method: told.get("int8")}
    steps |= told.get("ranges", {}) | {"qat": told.get("qat")}
    if kept := told["keep_float"]:
        tried = {row["layers_in_float"]: row["accuracy"] for row in told["tried"]}
        steps[f"{len(kept)} layers in float"] = tried[len(kept)]
    found = {name: f"{value:.2f} %" for name, value in steps.items() if value is not None}
    if len(found) < 2:
        return {}
    listed = ", ".join(f"{name} {value}" for name, value in found.items())
    return {"tried": listed, "ranges and weights from": told.get("kept", next(iter(found)))}


def _quantization(job: Job, shipped: str) -> QuantizationSection | None:
    assert job.recipe.quantize is not None
    scheme = job.target.scheme
    told = {graph.file: emission(job, graph) for graph in graphs(job) if graph.wanted}
    # Where the float network ships, what INT8 would have been is still told.
    report = told.get(shipped) or next((value for value in told.values() if value), None)
    if scheme is None or report is None:
        return None
    return QuantizationSection(
        scheme=scheme,
        method=emission_of(job).table.method,
        facts={"calibration images": _calibration_images(job), **_recovery(job)},
        left_in_float=report["left_in_float"],
        nodes=graph_nodes(job),
    )
