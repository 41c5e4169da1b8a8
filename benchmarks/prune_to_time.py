"""Accuracy at equal measured time: the search for widths, even pruning, and torch-pruning alone.

    python benchmarks/prune_to_time.py --out runs/prune-to-time
        [--checkpoint fastnet=FOLDER mobilenetv2=FOLDER] [--networks fastnet mobilenetv2]
        [--seeds 1]

For each network, speed-up and seed, three ways to the same time, that of the unpruned INT8 graph
on ONNX Runtime divided by the speed-up:
- `search`: EdgeVision's search over all groups, as `compress --prune-speedup` does it;
- `uniform`: the same share of channels from every group, those of least magnitude;
- `torch-pruning`: its BasePruner ranking all channels by group magnitude. Like ours it keeps
  multiples of 8 channels and a tenth of every layer.
The ratio of the last two is found by bisection over measured time, so that each comes as near to
it as its steps allow. All are fine-tuned alike: the same epochs, recipe and distillation from the
unpruned network, then quantized alike (x86-vnni, 512 images). The seed is that of the fine-tuning
and of the images that the search sees. Accuracy is that of the INT8 graph on all 10 000 test
images. The times in the result are of one interleaved run of all graphs of a network at the end.
They come near the time asked for, not upon it: `at_equal_time` is the accuracy that each way and
seed has at exactly that speed-up, on the line through its own two nearest networks, over the
logarithm of the speed-up.
Interrupted, run it again: it carries on. Several processes with the same --out may each take
their --seeds; the one that finds every candidate done takes the times.
Writes results/prune_to_time.json.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from int8_accuracy import IMAGES, NETWORKS, Prepared, network_parser, prepare
from rich.console import Console
from teacher import StoredTeacher
from torch import nn

from edgevision.backends import get_backend
from edgevision.benchmark import BenchConfig, Comparison, compare, opened_graphs
from edgevision.cli._progress import Phases
from edgevision.data.loader import BatchLoader
from edgevision.devices import environment
from edgevision.export import export_onnx, load_onnx
from edgevision.files import write_json
from edgevision.latency import (
    LatencyModel,
    WidthShapes,
    fit_latency,
    measure_widths,
    quantize_narrowed,
    sample_widths,
)
from edgevision.models.checkpoint import load_checkpoint
from edgevision.pipeline.timing import StoredWidths
from edgevision.pruning import PruneConfig, prune
from edgevision.pruning.allowed import allowed_widths
from edgevision.pruning.timed import TimeGoal
from edgevision.quantization import CalibrationTable, calibrate, emit
from edgevision.tasks import get_task
from edgevision.tasks.base import LossOptions
from edgevision.train import TrainConfig, default_config, fit, override
from edgevision.train.results import as_phase
from edgevision.types import TensorSpec

RESULT = Path(__file__).parent / "results" / "prune_to_time.json"
SCHEME = "x86-vnni"
ROUND_TO, MAX_RATIO = 8, 0.9
NETWORKS_TIMED, SECONDS = 64, 40.0
BISECTIONS = 7
SEEDS = {"fastnet": (0, 1, 2), "mobilenetv2": (0,)}
SPEEDUPS = (1.5, 2.0, 3.0)


class Case:
    """One trained network with what all three ways share."""

    def __init__(self, name: str, checkpoint: Path, folder: Path, threads: int) -> None:
        self.name, self.folder, self.threads = name, folder, threads
        self.task = get_task("classification")
        self.ready: Prepared = prepare(name, NETWORKS[name], checkpoint, folder / "graphs")
        self.module, _ = load_checkpoint(checkpoint)
        self.module.eval()
        self.shape = self.ready.preprocessing.input_shape
        self.head = self.task.head_layers(self.module, len(self.ready.data.labels))
        self.whole = folder / "graphs" / "int8.onnx"
        self.table = folder / "graphs" / "table.json"
        if not self.whole.exists():
            calibrate(self.ready.fp32, [self.ready.images]).save(self.table)
            emit(self.ready.fp32, CalibrationTable.load(self.table), SCHEME, self.whole)

    @cached_property
    def latency(self) -> LatencyModel:
        """Times of the INT8 network at random widths, measured once."""
        found = allowed_widths(
            self.module,
            example_shape=(1, *self.shape),
            config=self.config(speedup=2.0),
            ignored=self.head,
            round_to=ROUND_TO,
        )
        shapes = WidthShapes(load_onnx(self.ready.fp32), found.cost, found.bounds)
        rows = sample_widths(list(found.allowed.values()), NETWORKS_TIMED, 0)
        stored = self.folder / "times.json"
        if not stored.exists():
            prepare_graph = partial(quantize_narrowed, CalibrationTable.load(self.table), SCHEME)
            times = measure_widths(
                shapes,
                rows,
                get_backend("onnxruntime"),
                {"image": self.ready.images[:1]},
                self.folder / "graphs",
                prepare=prepare_graph,
                threads=self.threads,
                seconds=SECONDS,
            )
            write_json(stored, times.tolist())
        return fit_latency(shapes, rows, np.array(json.loads(stored.read_text())))

    def config(self, seed: int = 0, **target: float) -> PruneConfig:
        return PruneConfig(max_ratio=MAX_RATIO, seed=seed, **target)

    def times(self, paths: Mapping[str, Path], seconds: float, baseline: str) -> Comparison:
        """INT8 files timed in one interleaved run."""
        feeds = {"image": self.ready.images[:1]}
        with opened_graphs(paths, get_backend("onnxruntime"), feeds, self.threads) as runs:
            config = BenchConfig(seconds=seconds, relative_width=0.0)
            return compare(runs, baseline=baseline, config=config)

    def speedup_of(self, path: Path) -> float:
        """Times the unpruned INT8 graph's speed."""
        found = self.times({"whole": self.whole, "narrow": path}, 4.0, "whole")
        return found.ratios["narrow"].value

    def int8(self, module: nn.Module, path: Path) -> Path:
        """The INT8 graph of ``module``."""
        exported = path.with_suffix(".float.onnx")
        spec = TensorSpec("image", ("batch", *self.shape))
        export_onnx(module.eval(), exported, input_spec=spec, output_names=["logits"])
        emit(exported, calibrate(exported, [self.ready.images]), SCHEME, path)
        return path

    def batches(self, seed: int) -> Iterator[Any]:
        return iter(
            BatchLoader(
                self.ready.data.train,
                self.ready.preprocessing,
                self.task,
                256,
                seed=seed,
                train=True,
                augment=None,
            )
        )

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.task.loss(outputs, targets, LossOptions())


def search(case: Case, speedup: float, seed: int, folder: Path) -> nn.Module:
    """Ours."""
    model = case.latency
    whole = model.of({})

    def measure(kept: Mapping[str, int]) -> float:
        from edgevision.export import save_onnx

        narrow, path = folder / "candidate.float.onnx", folder / "candidate.onnx"
        save_onnx(model.shapes.narrowed(kept), narrow)
        quantize_narrowed(CalibrationTable.load(case.table), SCHEME, narrow, path)
        return whole / case.speedup_of(path)

    goal = TimeGoal(
        whole / speedup,
        model.shapes.groups,
        model.milliseconds,
        measure,
        StoredWidths(folder / "widths.json"),
    )
    return prune(
        case.module,
        example_shape=(1, *case.shape),
        config=case.config(seed, speedup=speedup),
        ignored=case.head,
        round_to=ROUND_TO,
        batches=lambda: case.batches(seed),
        loss=case.loss,
        time=goal,
    ).module


def uniform(case: Case, speedup: float, seed: int, folder: Path) -> nn.Module:
    """The same share of every group."""
    del seed  # the choice rests on the weights alone

    def narrowed(ratio: float) -> nn.Module:
        return prune(
            case.module,
            example_shape=(1, *case.shape),
            config=case.config(pruning_ratio=ratio),
            ignored=case.head,
            round_to=ROUND_TO,
        ).module

    return at_speed(case, narrowed, speedup, f"uniform-{speedup:g}.json", folder)


def torch_pruning(case: Case, speedup: float, seed: int, folder: Path) -> nn.Module:
    """torch-pruning's own global ranking."""
    del seed

    def narrowed(ratio: float) -> nn.Module:
        import torch_pruning as tp

        module = copy.deepcopy(case.module)
        heads = {name for name, layer in case.module.named_modules() if layer in case.head}
        pruner = tp.pruner.BasePruner(
            module,
            torch.zeros(1, *case.shape),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=MAX_RATIO,
            round_to=ROUND_TO,
            ignored_layers=[layer for name, layer in module.named_modules() if name in heads],
        )
        pruner.step()
        return module

    return at_speed(case, narrowed, speedup, f"torch-pruning-{speedup:g}.json", folder)


def at_speed(
    case: Case, narrowed: Callable[[float], nn.Module], speedup: float, name: str, folder: Path
) -> nn.Module:
    """The network whose measured speed-up is nearest; the ratio is kept for all seeds."""
    stored = case.folder / name
    if not stored.exists():
        low, high = 0.0, MAX_RATIO
        tried: dict[float, float] = {}
        for _ in range(BISECTIONS):
            ratio = (low + high) / 2
            path = case.int8(narrowed(ratio), folder / "int8.onnx")
            tried[ratio] = case.speedup_of(path)
            low, high = (ratio, high) if tried[ratio] < speedup else (low, ratio)
        best = min(tried, key=lambda ratio: abs(np.log(tried[ratio] / speedup)))
        write_json(stored, {"ratio": best, "tried": {str(k): v for k, v in tried.items()}})
    return narrowed(float(json.loads(stored.read_text())["ratio"]))


WAYS = {"search": search, "uniform": uniform, "torch-pruning": torch_pruning}


def finished(
    case: Case, way: str, speedup: float, seed: int, tune: TrainConfig, progress: Phases
) -> None:
    """Prune, fine-tune, quantize; the accuracy before and after INT8. Kept in the folder."""
    folder = case.folder / f"{way}-{speedup:g}-{seed}"
    stored = folder / "done.json"
    if stored.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    teacher = StoredTeacher(case.module, case.folder / f"teacher-{seed}.safetensors")
    module = WAYS[way](case, speedup, seed, folder)
    fit(
        module,
        case.ready.data,
        case.ready.preprocessing,
        case.task,
        tune,
        folder=folder,
        teacher=teacher.module,
        progress=as_phase(progress, f"{case.name} {speedup:g}x {way}, seed {seed}"),
    )
    teacher.save()
    path = case.int8(module, folder / "int8.onnx")
    done = {
        "fp32": case.ready.accuracy(path.with_suffix(".float.onnx")),
        "int8": case.ready.accuracy(path),
        "params": sum(p.numel() for p in module.parameters()),
    }
    write_json(stored, done)
    print(folder.name, json.dumps(done), flush=True)


def main() -> None:
    parser = network_parser(__doc__, list(SEEDS), RESULT)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", nargs="+", type=int, help="these alone, all unless told")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the last timing")
    arguments = parser.parse_args()
    given = dict(entry.split("=", 1) for entry in arguments.checkpoint)
    result: dict[str, Any] = {"networks": {}}
    if arguments.result.exists() and not arguments.again:
        result = json.loads(arguments.result.read_text())
    result |= {
        "claim": "at equal measured INT8 time and equal fine-tuning the search keeps more accuracy",
        "command": f"python benchmarks/prune_to_time.py --out OUT --epochs {arguments.epochs}",
        "epochs": arguments.epochs,
        "calibration_images": IMAGES,
    }
    for name in arguments.networks:
        folder = arguments.out / name
        case = Case(name, Path(given.get(name, folder / "checkpoint")), folder, arguments.threads)
        row = result["networks"].setdefault(name, {"runs": {}})
        row["fp32"], row["int8"] = (
            case.ready.accuracy(case.ready.fp32),
            case.ready.accuracy(case.whole),
        )
        base = default_config(NETWORKS[name].model)
        tune = {
            "epochs": arguments.epochs,
            "learning_rate": base.learning_rate / 3,
            "muon_learning_rate": base.muon_learning_rate / 3,
            "evaluate_every": arguments.epochs,
        }
        cases = {
            f"{way}-{speedup:g}-{seed}": (way, speedup, seed)
            for seed in SEEDS[name]
            for speedup in SPEEDUPS
            for way in WAYS
        }
        for key, (way, speedup, seed) in cases.items():
            if arguments.seeds is not None and seed not in arguments.seeds:
                continue
            if arguments.again:
                rmtree(folder / key, ignore_errors=True)
            with Phases(Console()) as progress:
                config = override(base, **tune, seed=seed)
                finished(case, way, speedup, seed, config, progress)
        left = [key for key in cases if not (folder / key / "done.json").exists()]
        if left:
            print(f"{name}: no times yet, {len(left)} to do: {', '.join(left)}")
            continue
        for key, (way, speedup, seed) in cases.items():
            done = json.loads((folder / key / "done.json").read_text())
            row["runs"][key] = {"way": way, "speedup": speedup, "seed": seed, **done}
        graphs = {key: folder / key / "int8.onnx" for key in row["runs"]}
        paths = {"fp32": case.ready.fp32, "int8": case.whole, **graphs}
        found = case.times(paths, arguments.seconds, "int8")
        for key, run in row["runs"].items():
            run["measured_speedup"] = found.ratios[key].value
        row["int8_times_fp32"] = 1 / found.ratios["fp32"].value
        row["threads"], row["environment"] = arguments.threads, environment()
        row["summary"] = summary(row["runs"])
        row["at_equal_time"] = at_equal_time(row["runs"])
        write_json(arguments.result, result)
        print(json.dumps(row["at_equal_time"], indent=1))


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By speed-up and way: mean and range over seeds of accuracy and measured speed-up."""
    told: dict[str, Any] = {}
    for speedup in SPEEDUPS:
        for way in WAYS:
            rows = [r for r in runs.values() if (r["speedup"], r["way"]) == (speedup, way)]
            values = {key: [row[key] for row in rows] for key in ("int8", "measured_speedup")}
            told.setdefault(f"{speedup:g}", {})[way] = {
                key: [round(float(f(v)), 3) for f in (np.mean, np.min, np.max)]
                for key, v in values.items()
            }
    return told


def at_equal_time(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By speed-up and way: INT8 accuracy of each seed at exactly that measured speed-up."""
    told: dict[str, Any] = {}
    for way in WAYS:
        for seed in sorted({run["seed"] for run in runs.values()}):
            own = [run for run in runs.values() if (run["way"], run["seed"]) == (way, seed)]
            points = sorted((np.log(run["measured_speedup"]), run["int8"]) for run in own)
            for speedup in SPEEDUPS:
                near = sorted(points, key=lambda point: abs(point[0] - np.log(speedup)))[:2]
                (x0, y0), (x1, y1) = sorted(near)
                found = y0 + (y1 - y0) * (np.log(speedup) - x0) / (x1 - x0)
                told.setdefault(f"{speedup:g}", {}).setdefault(way, []).append(round(found, 2))
    return told


if __name__ == "__main__":
    main()
