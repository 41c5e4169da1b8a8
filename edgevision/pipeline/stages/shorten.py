"""shorten: which blocks leave the network before its widths are chosen, for pruning to a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.prune import dense_network, training_batches, training_loss
from edgevision.pipeline.store import Stage
from edgevision.pipeline.timing import (
    BLOCKS,
    latency_model,
    measure_job,
    time_goal,
    without_blocks,
)


class Shorten(Stage[Job]):
    """Outputs ``blocks.json``: every block looked at, what it costs and saves, and which go.

    Where some go, what the profile stage gives is measured anew without them, and lies beside it.
    """

    name = "shorten"

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.prune is not None
        return {
            "baseline": job.key("baseline"),
            "sparse": job.key("sparse"),
            "profile": job.key("profile"),
            "prune": job.prune.model_dump(mode="json"),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.pruning.blocks import Block, find_blocks
        from edgevision.pruning.depth import DepthChoice, choose_blocks
        from edgevision.pruning.search import Float64, Ints
        from edgevision.pruning.whole import example_input, ignored_names

        assert job.prune is not None
        module, shape = dense_network(job), (1, *job.preprocessing.input_shape)
        heads = job.task.head_layers(module, len(job.data.labels))
        blocks = find_blocks(
            module,
            example_input(module, shape),
            ignored_names(module, heads, job.prune.ignored_layers),
        )
        if not blocks:
            write_json(work / BLOCKS, DepthChoice((), None, None).to_dict())
            return
        model = latency_model(job, module)
        goal = time_goal(job, model, module, work)
        scale = goal.of(model.shapes.complete({})) / model.of({})

        def time_in(block: Block, kept: Ints) -> Float64:
            layers = model.shapes.layers_inside(block.name, block.shape)
            return scale * model.time_in(layers, kept)

        found = choose_blocks(
            module,
            blocks,
            goal,
            time_in,
            example_shape=shape,
            config=job.prune,
            ignored=heads,
            round_to=job.target.round_to,
            batches=lambda: training_batches(job),
            loss=training_loss(job),
            progress=lambda phase, done, total: job.progress(phase, done, total, ""),
        )
        for path in work.glob("candidate*.onnx"):
            path.unlink()
        if found.gone:
            measure_job(job, without_blocks(module, found.gone), work)
        write_json(work / BLOCKS, found.to_dict())
