"""recover: where INT8 loses more accuracy than allowed, get it back, the cheapest way first."""

from __future__ import annotations

import math
import shutil
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
from edgevision.pipeline.survey import graph_backend
from edgevision.pipeline.verdict import keeps_budget

if TYPE_CHECKING:
    from edgevision.quantization import CalibrationTable

IMAGES = 16  # for the noise of layers, which settles quickly
LEARNED = "model.learned.fp32.onnx"
TABLE = "calibration.json"
TRIAL = "trial.onnx"


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

    name = f"model.int8.{job.target.scheme}.onnx"
    float_path, path, kept = quantized_from(job), job.done("quantize").path(name), {}
    if "recover" in job.results and job.done("recover").path(name).exists():
        recover = job.done("recover")
        path, kept = recover.path(name), recover.json("recover.json")["keep_float"]
        if recover.path(LEARNED).exists():
            float_path = recover.path(LEARNED)
    return Emission(float_path, CalibrationTable.load(table_path(job)), path, kept)


def table_path(job: Job) -> Path:
    """The calibration table that the target's INT8 graph was emitted with."""
    if "recover" in job.results and job.done("recover").path(TABLE).exists():
        return job.done("recover").path(TABLE)
    return job.done("quantize").path(TABLE)


class Recover(Stage[Job]):
    """Outputs ``recover.json`` and, where INT8 throughout missed the budget, another INT8 graph.

    First the other calibrators, whose ranges the table's histograms give at once; then
    quantization-aware training; neither costs speed, and what is kept of them goes into the stage.
    Where that is not enough, or not asked for, layers go back to float: those first that add most
    noise to the network's output, as few as keep the budget on the validation split.
    """

    name = "recover"
    version = 3
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.recipe.quantize is not None
        return {
            "quantize": job.key("quantize"),
            "scheme": job.target.scheme,
            "measured_on": graph_backend(job.target),
            "budget": job.recipe.verify.max_accuracy_drop,
            "qat": job.recipe.quantize.qat.model_dump(mode="json"),
        }

    def run(self, job: Job, work: Path) -> None:
        told: dict[str, Any] = {"keep_float": {}, "tried": []}
        if job.target.scheme is not None:
            _Recovery(job, work, job.target.scheme, told).run()
        write_json(work / "recover.json", told)


class _Recovery:
    def __init__(self, job: Job, work: Path, scheme: str, told: dict[str, Any]) -> None:
        self.job, self.work, self.scheme, self.told = job, work, scheme, told
        self.base = emission_of(job)
        self.output = work / f"model.int8.{scheme}.onnx"
        metrics = job.done("baseline").json("metrics.json")
        self.baseline = float(metrics[job.task.metric_name])
        self.best = -math.inf  # accuracy of what would be kept now

    def run(self) -> None:
        assert self.job.recipe.quantize is not None
        when = self.job.recipe.quantize.qat.when
        for name in (self.output.name, LEARNED, TABLE, TRIAL):  # of a run that was killed
            (self.work / name).unlink(missing_ok=True)
        told = self.told
        told["baseline"] = self.baseline
        told["int8"] = self.best = self._accuracy(self.base.int8_path, "INT8")
        if not self._keeps(self.best):
            self._choose_ranges()
        missed = not self._keeps(self.best)
        if when == "always" or (missed and when == "when-needed"):
            self._train()
        if not self._keeps(self.best):
            told["float"] = self._accuracy(self.base.float_path, "the float network")
            if self._keeps(told["float"]):  # else it was not INT8 that lost it
                self._leave_in_float()

    def _keeps(self, accuracy: float) -> bool:
        return keeps_budget(self.baseline, accuracy, self.job.recipe.verify.max_accuracy_drop)

    def _accuracy(self, path: Path, what: str) -> float:
        metric = self.job.task.metric_name
        backend = graph_backend(self.job.target)
        return evaluate_onnx(self.job, path, f"accuracy of {what}", backend=backend)[metric]

    def _choose_ranges(self) -> None:
        """Take the best of all calibrators, by accuracy; the first that is enough ends it."""
        from edgevision.export import load_onnx
        from edgevision.quantization import emit
        from edgevision.quantization.calibrate import recalibrations
        from edgevision.quantization.sensitivity import layer_noise

        told, float_path = self.told, self.base.float_path
        trial, told["ranges"] = self.work / TRIAL, {}
        for table in recalibrations(self.base.table, load_onnx(float_path)):
            method = table.method
            report = emit(float_path, table, self.scheme, trial, half=True)
            value = self._accuracy(trial, f"INT8 by {method}")
            told["ranges"][method] = value
            if value <= self.best:
                continue
            self.best, told["kept"] = value, method
            trial.replace(self.output)
            table.save(self.work / TABLE)
            images = some_images(self.job.data.train, self.job.preprocessing, IMAGES)
            noise = layer_noise(float_path, table, self.scheme, images)
            told[self.scheme] = emitted(report, float_path, table, noise)
            self.base = Emission(float_path, table, self.output, {})
            if self._keeps(value):
                break
        trial.unlink(missing_ok=True)

    def _train(self) -> None:
        """Quantization-aware training; taken where it is better than what was there."""
        from edgevision.pipeline.qat import quantization_aware_training
        from edgevision.quantization import CalibrationTable, emit, get_scheme
        from edgevision.quantization.quantized_torch import with_weight_bits
        from edgevision.train.results import as_phase

        job, folder = self.job, self.work / "qat"
        assert job.recipe.quantize is not None
        bits = job.recipe.quantize.weight_bits
        done = quantization_aware_training(
            self.base.float_path,
            self.base.table,
            with_weight_bits(get_scheme(self.scheme), bits),
            job.data,
            job.preprocessing,
            job.task,
            folder=folder,
            config=job.qat,
            progress=as_phase(job.progress, "quantization-aware training"),
        )
        table = CalibrationTable.load(done.table_path)
        trial = self.work / TRIAL
        report = emit(done.onnx_path, table, self.scheme, trial, half=True)
        self.told["qat"] = self._accuracy(trial, "INT8 after training")
        if self.told["qat"] >= self.best:
            self.best, self.told["kept"] = self.told["qat"], "qat"
            self.told[self.scheme] = emitted(report, done.onnx_path, table)
            trial.replace(self.output)
            done.onnx_path.replace(self.work / LEARNED)
            done.table_path.replace(self.work / TABLE)
            self.base = Emission(self.work / LEARNED, table, self.output, {})
        trial.unlink(missing_ok=True)
        shutil.rmtree(folder)

    def _leave_in_float(self) -> None:
        from edgevision.quantization import emit
        from edgevision.quantization.output_noise import most_costly_first

        base, told = self.base, self.told
        images = some_images(self.job.data.train, self.job.preprocessing, IMAGES)
        self.job.progress("noise of layers", 0, 1, "")
        order = most_costly_first(base.float_path, base.table, self.scheme, images)
        self.job.progress("noise of layers", 1, 1, "")
        trial = self.work / TRIAL

        def kept(count: int) -> dict[str, str]:
            return {name: f"in INT8 it costs accuracy: {cost}" for name, cost in order[:count]}

        def enough(count: int) -> bool:
            emit(base.float_path, base.table, self.scheme, trial, keep_float=kept(count))
            value = self._accuracy(trial, f"INT8 with {count} layers in float")
            told["tried"].append({"layers_in_float": count, "accuracy": value})
            return self._keeps(value)

        # One layer stays: a network without any is the float network, which is there already.
        count = fewest(len(order) - 1, enough)
        trial.unlink(missing_ok=True)
        if count is not None:
            told["keep_float"] = kept(count)
            report = emit(
                base.float_path,
                base.table,
                self.scheme,
                self.output,
                keep_float=kept(count),
                half=True,
            )
            told[self.scheme] = emitted(report, base.float_path, base.table)


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
