"""Puts a bundle together from the stages' results: the draft that is verified, then the final."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from edgevision.bundle import BundleWriter, Lineage, Verdict, add_engine
from edgevision.files import digest, sha256_file
from edgevision.pipeline.candidates import BASELINE, graphs
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.build import artifact_of
from edgevision.pipeline.stages.export import INPUT_NAME
from edgevision.pipeline.stages.recover import TABLE, table_path
from edgevision.pipeline.survey import graph_backend, runs_graphs
from edgevision.types import TensorSpec

GOLDEN_IMAGES = 8


def write_bundle(
    job: Job,
    folder: Path,
    *,
    shipped: str | None = None,
    proven: Collection[str] = (),
    verdict: Verdict | None = None,
    reports: Mapping[str, bytes] | None = None,
    golden: bool = False,
) -> None:
    """Write the bundle of ``job`` to ``folder``.

    Args:
        shipped: file name of the graph that the verdict speaks of; None in a draft.
        proven: graphs within the accuracy budget: the runtime may fall back on them.
        reports: file name → content, e.g. ``report.html``.
        golden: add golden images and the outputs of the baseline and the shipped graph.
    """
    backend = job.target.backend
    opens_graphs = backend if runs_graphs(job.target) else "onnxruntime"
    first = job.fixed_batch or "batch"
    inputs = [TensorSpec(INPUT_NAME, (first, *job.preprocessing.input_shape))]
    outputs = _output_specs(job)
    found = graphs(job)
    with BundleWriter(
        folder,
        task=job.recipe.task,
        labels=job.data.labels,
        target=job.target.name,
        inputs=inputs,
        outputs=outputs,
        preprocessing=job.preprocessing,
    ) as writer:
        writer.add_file(
            job.done("export").path(BASELINE),
            BASELINE,
            kind="onnx",
            role="baseline",
            backend=opens_graphs,
            precision="fp32",
        )
        for graph in found:
            writer.add_file(
                graph.path,
                graph.file,
                kind="onnx",
                role=_role(graph.file, shipped, proven),
                backend=opens_graphs if graph.wanted else "onnxruntime",
                precision=graph.precision,
                scheme=graph.scheme,
                target=job.target.name if graph.wanted else None,
            )
        if "quantize" in job.results:
            writer.add_file(table_path(job), TABLE, kind="calibration")
            chosen = "calibration-set.json"
            writer.add_file(job.done("quantize").path(chosen), chosen, kind="calibration")
        for name, content in (reports or {}).items():
            writer.add_bytes(content, name, kind="report")
        if golden:
            _add_golden(job, writer, [BASELINE, *([shipped] if shipped else [])])
        writer.finish(lineage=lineage(job), verdict=verdict)
    if runs_graphs(job.target):
        return  # the ONNX files themselves are the artifacts
    for graph in [g for g in found if g.wanted and shipped in (None, g.file)]:
        artifact = artifact_of(job, job.done("build"), graph.file)
        add_engine(
            folder,
            job.target.name,
            artifact.path,
            {
                **artifact.meta,
                "layers": [
                    {
                        "name": layer.name,
                        "operator": layer.operator,
                        "precision": layer.precision,
                        "nodes": list(layer.nodes),
                    }
                    for layer in artifact.layers
                ],
            },
            backend=backend,
            precision=graph.precision,
            scheme=graph.scheme,
        )


def _role(
    file: str, shipped: str | None, proven: Collection[str]
) -> Literal["shipped", "candidate"] | None:
    if file == shipped:
        return "shipped"
    return "candidate" if file in proven else None


def lineage(job: Job) -> Lineage:
    """What the bundle was made from, all of it by hash."""
    from edgevision.devices import package_versions

    digests = dict(job.data_digest())
    if job.foreign is not None:
        digests |= job.foreign.lineage()
    if "quantize" in job.results:
        digests["calibration"] = sha256_file(job.done("quantize").path("calibration-set.json"))
    return Lineage(
        model=job.recipe.model,
        data=job.recipe.data,
        recipe=digest(job.recipe.model_dump(mode="json")),
        digests=digests,
        stages={
            name: result.key
            for name, result in job.results.items()
            if name not in ("verify", "bundle")
        },
        versions=package_versions(),
    )


def _output_specs(job: Job) -> list[TensorSpec]:
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    path = job.done("export").path(BASELINE)
    with get_backend("onnxruntime").open(Artifact("onnxruntime", path), threads=1) as runner:
        return list(runner.output_specs)


def _add_golden(job: Job, writer: BundleWriter, names: list[str]) -> None:
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    data = job.data.validation
    picked = np.linspace(0, len(data) - 1, min(GOLDEN_IMAGES, len(data))).astype(int)
    tensor = writer.add_golden_inputs([data.image(int(i)) for i in picked])
    paths = {BASELINE: job.done("export").path(BASELINE)}
    paths |= {graph.file: graph.path for graph in graphs(job)}
    backend = graph_backend(job.target)
    for name in names:
        artifact = Artifact(backend, paths[name])
        with get_backend(backend).open(artifact, threads=1) as runner:
            step = job.fixed_batch or len(tensor)
            parts = [
                runner.infer({INPUT_NAME: tensor[i : i + step]})
                for i in range(0, len(tensor), step)
            ]
            outputs = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            writer.add_golden_outputs(name, outputs)
