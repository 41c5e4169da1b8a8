"""quantize: calibrate once, then emit one Q/DQ graph per quantization scheme."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.export import PRUNED
from edgevision.pipeline.store import Stage

if TYPE_CHECKING:
    from edgevision.data.calibration import CalibrationSet
    from edgevision.quantization import CalibrationTable, EmitReport
    from edgevision.quantization.sensitivity import NetworkNoise

BATCH = 32
IMAGES = 128  # for means of channels; all of them are in memory at once
PREPARED = "model.prepared.fp32.onnx"
NOISE_IMAGES = 16  # the noise of a layer is a mean over its pixels as well


class Quantize(Stage[Job]):
    """Outputs ``calibration.json``, ``calibration-set.json`` and ``model.int8.SCHEME.onnx``.

    Where it was equalized or its weights rounded, the float graph behind them as well.
    """

    name = "quantize"
    version = 3

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.recipe.quantize is not None
        return {
            "export": job.key("export"),
            "pruned": job.key("export-pruned"),
            "quantize": job.recipe.quantize.model_dump(),
            "scheme": job.target.scheme,
            "seed": job.recipe.seed,
            "data": job.data_digest(),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.data.calibration import sample_calibration
        from edgevision.quantization import calibrate, emit, scheme_names
        from edgevision.quantization.sensitivity import layer_noise

        assert job.recipe.quantize is not None
        section = job.recipe.quantize
        chosen = sample_calibration(
            job.data.train,
            job.task,
            section.images,
            job.recipe.seed,
            validation=job.data.validation,
            fewer=True,
        )
        chosen.save(work / "calibration-set.json")
        graph = _equalized(job, chosen, work)
        table = calibrate(
            graph,
            chosen.batches(job.preprocessing, BATCH),
            method=section.method,
            calibration_digest=chosen.digest,
            progress=lambda seen: job.progress("calibrating", seen, len(chosen), ""),
        )
        if (section.adaround or section.weight_bits < 8) and job.target.scheme is not None:
            table = _rounded(job, chosen, graph, table, work)
            graph = work / PREPARED
        if section.bias_correction != "off" and job.target.scheme is not None:
            from edgevision.quantization.bias_correction import correct_biases

            job.progress("correcting biases", 0, 1, "")
            images, method = _first_images(job, chosen, IMAGES), section.bias_correction
            table = correct_biases(graph, table, job.target.scheme, images, method=method)
            job.progress("correcting biases", 1, 1, "")
        table.save(work / "calibration.json")
        reports: dict[str, dict[str, Any]] = {}
        for index, scheme in enumerate(scheme_names()):
            job.progress("emitting Q/DQ", index, len(scheme_names()), scheme)
            try:
                output = work / f"model.int8.{scheme}.onnx"
                report = emit(graph, table, scheme, output, half=scheme == job.target.scheme)
            except ModelError as error:
                if scheme == job.target.scheme:
                    raise
                reports[scheme] = {"refused": error.message}
                continue
            noise = None
            if scheme == job.target.scheme:
                noise = layer_noise(graph, table, scheme, _first_images(job, chosen, NOISE_IMAGES))
            reports[scheme] = emitted(report, graph, table, noise)
        job.progress("emitting Q/DQ", len(reports), len(reports), "")
        write_json(work / "emit.json", reports)


def emitted(
    report: EmitReport, graph: Path, table: CalibrationTable, noise: NetworkNoise | None = None
) -> dict[str, Any]:
    """What reports show of an emission from the float ``graph``, as plain values."""
    from edgevision.export import load_onnx
    from edgevision.quantization import get_scheme
    from edgevision.quantization.diagnosis import node_facts

    facts = node_facts(load_onnx(graph), table, get_scheme(report.scheme), report.nodes, noise)
    return {
        "asked": {node.name: node.asked for node in report.nodes},
        "left_in_float": {n.name: n.reason for n in report.nodes if n.asked == "float"},
        "findings": [asdict(finding) for finding in report.findings],
        "nodes": [asdict(node) for node in facts],
    }


def _equalized(job: Job, chosen: CalibrationSet, work: Path) -> Path:
    """The float graph to quantize, with the ranges of its channels evened out if so asked."""
    from edgevision.export import load_onnx, save_onnx
    from edgevision.quantization.equalization import equalize, smooth

    assert job.recipe.quantize is not None
    section, graph = job.recipe.quantize, float_graph(job)
    if section.equalize == "off":
        return graph
    job.progress("equalizing", 0, 1, "")
    model = load_onnx(graph)
    if section.equalize == "layers":
        model, changed = equalize(model)
    else:
        model, changed = smooth(model, _first_images(job, chosen, IMAGES))
    save_onnx(model, work / PREPARED)
    job.progress("equalizing", 1, 1, f"{len(changed)} layers")
    return work / PREPARED


def _rounded(
    job: Job, chosen: CalibrationSet, graph: Path, table: CalibrationTable, work: Path
) -> CalibrationTable:
    """AdaRound's weights, in ``work / PREPARED``, and the table for them."""
    from edgevision.export import load_onnx, save_onnx
    from edgevision.quantization import get_scheme
    from edgevision.quantization.adaround import adaround
    from edgevision.quantization.quantized_torch import with_weight_bits

    assert job.recipe.quantize is not None
    assert job.target.scheme is not None
    model, learned = adaround(
        load_onnx(graph),
        table,
        with_weight_bits(get_scheme(job.target.scheme), job.recipe.quantize.weight_bits),
        chosen.batches(job.preprocessing, BATCH),
        progress=lambda done, total: job.progress("rounding weights", done, total, ""),
    )
    save_onnx(model, work / PREPARED)
    return learned


def _first_images(job: Job, chosen: CalibrationSet, count: int) -> npt.NDArray[np.float32]:
    return next(chosen.batches(job.preprocessing, count))


def quantized_from(job: Job) -> Path:
    """The float graph that the calibration table is of."""
    prepared = job.done("quantize").path(PREPARED)
    return prepared if prepared.exists() else float_graph(job)


def float_graph(job: Job) -> Path:
    """The float ONNX graph that ships if nothing is quantized: pruned, or else the baseline."""
    if "export-pruned" in job.results:
        return job.done("export-pruned").path(PRUNED)
    return job.done("export").path("model.fp32.onnx")
