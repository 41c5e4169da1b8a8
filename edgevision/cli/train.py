"""``edgevision train``: a network from labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edgevision.errors import UsageError

_HELP = """Train a network and write a checkpoint folder that every other command takes as MODEL.

Each family has its own recipe; the options below override it. Interrupted, run the same command
again: it carries on where it was, and on one device the result is the same.

Examples:

  edgevision train cifar-resnet20 --data cifar10 --out runs/resnet20

  edgevision train cifar-resnet20 --data cifar10 --teacher runs/fastnet --out runs/distilled

  edgevision train timm:mobilenetv3_small_100 --data photos/ --image-size 224 --weights start.safetensors --freeze-epochs 2

Several processes: --devices 2, or through Fabric's launcher on each machine.
"""  # noqa: E501 - an example stays on one line


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("train", help=_HELP)(_train)


def _train(
    model: Annotated[
        str,
        typer.Argument(help="Own family, timm or torchvision name, file.py:factory, checkpoint."),
    ],
    data: Annotated[
        str, typer.Option(help="Built-in name, image folder, Hugging Face name or parquet folder.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint folder (default runs/MODEL).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step, all processes together.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adamw or muon.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of SGD or AdamW.")] = None,
    muon_learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of Muon: relative size of a step.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of SGD and AdamW.")] = None,
    schedule: Annotated[str | None, typer.Option(help="one-cycle, cosine or constant.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of steps with rising rate.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="0 to below 1.")] = None,
    balance: Annotated[
        str | None, typer.Option(help="Against uneven classes: none, weights or sampling.")
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Of the moving average of the weights.")
    ] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors file to start from; another head is replaced.")
    ] = None,
    freeze_epochs: Annotated[
        int | None, typer.Option(help="First epochs in which only the head learns.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of a network to distil from.")
    ] = None,
    distillation_weight: Annotated[
        float | None, typer.Option(help="Share of the teacher in the loss, 0 to 1.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the distillation.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of shuffling, augmentation, dropout.")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Epochs between evaluations; the end is always evaluated.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width in pixels; default the data's own.")
    ] = None,
    task: Annotated[str, typer.Option(help="What the network is for.")] = "classification",
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="auto or ddp.")] = None,
) -> None:
    from edgevision.cli._progress import Phases
    from edgevision.train.config import default_config, override
    from edgevision.train.job import train
    from edgevision.train.results import as_phase

    fields: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "muon_learning_rate": muon_learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup": warmup,
        "label_smoothing": label_smoothing,
        "balance": balance,
        "ema_decay": ema_decay,
        "clip_norm": clip_norm,
        "weights": weights,
        "freeze_epochs": freeze_epochs,
        "distillation_weight": distillation_weight,
        "temperature": temperature,
        "precision": precision,
        "seed": seed,
        "evaluate_every": evaluate_every,
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": strategy,
    }
    if teacher is None and (distillation_weight is not None or temperature is not None):
        raise UsageError(
            "--distillation-weight and --temperature say how to learn from a teacher.",
            hint="Name one with --teacher CHECKPOINT.",
        )
    config = override(default_config(model), **fields)
    folder = out or Path("runs") / model.replace("/", "_").replace(":", "_")
    console = Console()
    with Phases(console) as progress:
        done = train(
            model,
            data,
            out=folder,
            config=config,
            task=task,
            image_size=(image_size, image_size) if image_size else None,
            teacher=teacher,
            progress=as_phase(progress, "training"),
        )
    if not done.result.main_process:
        return
    figures = ", ".join(f"{name} {value:.2f} %" for name, value in done.result.metrics.items())
    console.print(f"{figures} on the validation images, {done.result.seconds:.0f} s of training")
    console.print(f"Checkpoint: {folder}", highlight=False, soft_wrap=True)
