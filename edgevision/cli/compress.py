"""``edgevision compress``: the main job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

_NAMED = 4  # nodes that a line names

_HELP = """Train or load a model, prune it, quantize it, build it for a target and prove it.

The bundle holds the engine or graph, the FP32 baseline, the calibration, golden vectors and a
report. Interrupted, run the same command again: finished stages are reused.

Examples:

  edgevision compress cifar-resnet20 --data cifar10 --target cpu --max-accuracy-drop 0.5

  edgevision compress path/net.py:factory --data photos/ --target cpu --prune-macs 0.4

  edgevision compress fastnet --data cifar10 --target cpu --prune-speedup 6

  edgevision compress fastnet --data cifar10 --target cpu --front 6

  edgevision compress model.onnx --data photos/ --target rtx

  edgevision compress --recipe demo
"""


_WHEN = {None: None, True: "always", False: "never"}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("compress", help=_HELP)(_compress)


def _compress(
    model: Annotated[
        str | None,
        typer.Argument(
            help="timm or torchvision name, own family, file.py:factory, checkpoint, model.onnx."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Built-in name, image folder, Hugging Face name or parquet folder."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Target name (see `edgevision targets`) or YAML file.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="YAML recipe or preset; flags override it.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(help="Percentage points that may be lost (default 1.0).")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Times faster than FP32 that it must be.")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Highest p50 latency, batch 1.")] = None,
    prune_macs: Annotated[
        float | None, typer.Option(help="Fraction of the MACs to remove, e.g. 0.5.")
    ] = None,
    prune_params: Annotated[
        float | None, typer.Option(help="Fraction of the parameters to remove.")
    ] = None,
    pruning_ratio: Annotated[
        float | None, typer.Option(help="Fraction of the channels to remove.")
    ] = None,
    prune_speedup: Annotated[
        float | None,
        typer.Option(help="Prune until it is so many times faster than FP32, measured."),
    ] = None,
    prune_latency_ms: Annotated[
        float | None, typer.Option(help="Prune until it takes at most so long, measured.")
    ] = None,
    front: Annotated[
        int | None,
        typer.Option(
            help="Make 2 to 12 bundles, from INT8 alone to pruned and several times as fast "
            "(--prune-speedup: how fast the last), and a page of accuracy over latency.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the baseline's training.")] = None,
    fine_tune_epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning after each pruning step.")
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Images of the calibration set (default 512).")
    ] = None,
    qat: Annotated[
        bool | None,
        typer.Option(
            "--qat/--no-qat",
            help="Quantization-aware training always or never (default: where INT8 misses the "
            "accuracy budget).",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of shuffling, augmentation, calibration and pruning.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of both sides when measuring.")
    ] = None,
    no_build: Annotated[
        bool, typer.Option("--no-build", help="Stop at the ONNX graphs; build on the device.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the plan, run nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for stages and bundle (default runs/…).")
    ] = None,
) -> None:
    from edgevision.cli._front import run_front
    from edgevision.cli._progress import Phases
    from edgevision.pipeline import compress, prepare
    from edgevision.recipe import load_recipe, merge

    targets = {
        "macs": prune_macs,
        "params": prune_params,
        "pruning_ratio": pruning_ratio,
        "speedup": prune_speedup,
        "latency_ms": prune_latency_ms,
    }
    overrides: dict[str, Any] = {
        "seed": seed,
        "train": {"epochs": epochs},
        "prune": dict(targets),
        "quantize": {"images": calibration_images, "qat": {"when": _WHEN[qat]}},
        "build": False if no_build else None,
    }
    if fine_tune_epochs is not None:
        overrides["prune"]["fine_tune"] = {"epochs": fine_tune_epochs}
    given = {"model": model, "data": data, "target": target}
    bounds = {
        "max_accuracy_drop": max_accuracy_drop,
        "speedup": speedup,
        "latency_ms": latency_ms,
        "threads": threads,
    }
    given_targets = any(value is not None for value in targets.values())
    resolved = load_recipe(
        recipe,
        merge(overrides, {**given, "verify": bounds}),
        replaced={"prune": tuple(targets)} if given_targets else {},
    )
    console = Console()
    if front is not None:
        run_front(resolved, front, console, out=out, dry_run=dry_run)
        return
    with Phases(console) as progress:
        if dry_run:
            job = prepare(resolved, progress)
            console.print_json(json.dumps(job.plan()))
            return
        result = compress(resolved, out=out, progress=progress)
    console.print(verdict_table(result.figures))
    for line in left_in_float(result.emission):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Bundle: {result.bundle}", highlight=False, soft_wrap=True)
    console.print(f"Report: {result.report}", highlight=False, soft_wrap=True)
    result.raise_for_verdict()


def left_in_float(emission: Mapping[str, Any]) -> list[str]:
    """What of the shipped INT8 graph stays in float, by reason; empty where nothing is INT8."""
    if not emission:
        return []
    asked = list(emission["asked"].values())
    by_reason: dict[str, list[str]] = {}
    for node, reason in emission["left_in_float"].items():
        by_reason.setdefault(reason, []).append(node)
    head = f"Of {len(asked)} operators {asked.count('int8')} are asked to run in INT8"
    if not by_reason:
        return [f"{head}; the rest follows its neighbours."]
    lines = [f"{head}; left in float:"]
    for reason, nodes in sorted(by_reason.items()):
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        lines.append(f"  {', '.join(nodes[:_NAMED])}{more}: {reason}")
    return lines


def verdict_table(figures: dict[str, Any]) -> Table:
    """The verify stage's figures (``verify.json``) as a table."""
    table = Table(title=f"{figures['images']} validation images, target {figures['target']}")
    table.add_column("", overflow="fold")
    for name in (f"{figures['metric']} %", "drop", "p50 ms", "times FP32", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in figures["rows"]:
        speed = row["speed"]
        ships = figures["verdict"]["passed"] and row["name"] == figures["verdict"]["shipped"]
        table.add_row(
            row["name"].removesuffix(".onnx"),
            f"{row['accuracy']:.2f}",
            f"{figures['rows'][0]['accuracy'] - row['accuracy']:+.2f}",
            f"{speed['latency_p50_ms']:.3f}" if speed else "not measured",
            f"{speed['speedup']:.2f} ({speed['low']:.2f}-{speed['high']:.2f})" if speed else "",
            f"{row['size'] / 1e6:.2f}",
            style="bold" if ships else None,
        )
    passed = figures["verdict"]["passed"]
    proven = figures["verdict"]["proven_speed"]
    told = "[bold green]passed[/]" if passed else "[bold red]not passed[/]"
    if passed and not proven:
        told = f"[bold yellow]accuracy passed[/]. {' '.join(figures['verdict']['reasons'])}"
    table.caption = f"{figures['verdict']['shipped']}: {told}"
    return table
