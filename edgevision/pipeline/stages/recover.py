"""recover: where INT8 loses more accuracy than allowed, get it back, the cheapest way first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.data.base import some_images
from edgevision.files import write_json
from edgevision.pipeline.accuracy import evaluate_onnx
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.quantize import emitted, quantized_from
from edgevision.pipeline.store import Stage
from edgevision.pipeline.verdict import keeps_budget

if TYPE_CHECKING:
    from edgevision.quantization import CalibrationTable

SUSPECTS = 24  # layers whose effect on the network's output is measured one by one
IMAGES = 16  # for that; noise settles quickly


@dataclass(frozen=True)
class Emission:
    """What the target's INT8 graph was emitted from, as later stages go on from it."""

    float_path: Path
    table: CalibrationTable
    int8_path: Path
    keep_float: Mapping[str, str]


def emission_of(job: Job) -> Emission:
    """From the last stage that emitted the graph of the target's scheme."""
    from edgevision.quantization import CalibrationTable

    quantize, name = job.done("quantize"), f"model.int8.{job.target.scheme}.onnx"
    table = CalibrationTable.load(quantize.path("calibration.json"))
    path, kept = quantize.path(name), {}
    if "recover" in job.results and job.done("recover").path(name).exists():
        path = job.done("recover").path(name)
        kept = job.done("recover").json("recover.json")["keep_float"]
    return Emission(quantized_from(job), table, path, kept)


class Recover(Stage[Job]):
    """Outputs ``recover.json`` and, where INT8 throughout missed the budget, another INT8 graph.

    Layers go back to float, those first that add most noise to the network's output, as few as
    keep the budget on the validation split.
    """

    name = "recover"

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "quantize": job.key("quantize"),
            "scheme": job.target.scheme,
            "budget": job.recipe.verify.max_accuracy_drop,
        }

    def run(self, job: Job, work: Path) -> None:
        told: dict[str, Any] = {"keep_float": {}, "tried": []}
        if job.target.scheme is not None:
            self._run(job, work, told)
        write_json(work / "recover.json", told)

    def _run(self, job: Job, work: Path, told: dict[str, Any]) -> None:
        base = emission_of(job)
        allowed = job.recipe.verify.max_accuracy_drop
        baseline = float(job.done("baseline").json("metrics.json")[job.task.metric_name])
        accuracy = _accuracy(job, base.int8_path, "accuracy of INT8")
        told |= {"baseline": baseline, "int8": accuracy}
        if keeps_budget(baseline, accuracy, allowed):
            return
        told["float"] = _accuracy(job, base.float_path, "accuracy in float")
        if keeps_budget(baseline, told["float"], allowed):  # else it was not INT8 that lost it
            self._leave_in_float(job, work, base, baseline, told)

    def _leave_in_float(
        self, job: Job, work: Path, base: Emission, baseline: float, told: dict[str, Any]
    ) -> None:
        from edgevision.quantization import emit

        scheme = job.target.scheme
        assert scheme is not None
        order = _most_costly_first(job, base)
        allowed = job.recipe.verify.max_accuracy_drop
        output = work / f"model.int8.{scheme}.onnx"

        def kept(count: int) -> dict[str, str]:
            return {name: f"in INT8 it costs accuracy: {cost}" for name, cost in order[:count]}

        def accuracy(count: int) -> float:
            emit(base.float_path, base.table, scheme, output, keep_float=kept(count))
            value = _accuracy(job, output, f"accuracy with {count} layers in float")
            told["tried"].append({"layers_in_float": count, "accuracy": value})
            return value

        # One layer stays: a network without any is the float network, which is there already.
        count = fewest(
            len(order) - 1, lambda count: keeps_budget(baseline, accuracy(count), allowed)
        )
        if count is None:
            output.unlink(missing_ok=True)
            return
        told["keep_float"] = kept(count)
        report = emit(base.float_path, base.table, scheme, output, keep_float=kept(count))
        told[scheme] = emitted(report, base.float_path, base.table)


def _accuracy(job: Job, path: Path, phase: str) -> float:
    return evaluate_onnx(job, path, phase)[job.task.metric_name]


def fewest(most: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest count from 1 to ``most`` that is enough, if more never is worse.

    Doubled until it is enough, then halved between: few counts are asked for, and small ones
    first. None where ``most`` is not enough either.
    """
    low, high = 0, 1
    if most < 1:
        return None
    while not enough(min(high, most)):
        if high >= most:
            return None
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _most_costly_first(job: Job, base: Emission) -> list[tuple[str, str]]:
    """Names of layers with what each gives when left in float; then the rest by their noise."""
    from edgevision.quantization.sensitivity import layer_noise, leave_in_float

    scheme = job.target.scheme
    assert scheme is not None
    images = some_images(job.data.train, job.preprocessing, IMAGES)
    job.progress("noise of layers", 0, 2, "")
    noise = layer_noise(base.float_path, base.table, scheme, images)
    job.progress("noise of layers", 1, 2, "")
    suspects = [layer.name for layer in noise.worst(SUSPECTS)]
    costs = leave_in_float(base.float_path, base.table, scheme, images, [[n] for n in suspects])
    job.progress("noise of layers", 2, 2, "")
    order = [(cost.nodes[0], f"{cost.sqnr_gain_db:+.1f} dB at the output") for cost in costs]
    rest = [layer for layer in noise.worst(len(noise.layers)) if layer.name not in suspects]
    return order + [(layer.name, f"{layer.sqnr_db:.1f} dB SQNR") for layer in rest]
