"""From MODEL and DATA to a checkpoint folder: what ``edgevision train`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

import edgevision
from edgevision.data import DataSplits, load_data
from edgevision.errors import ModelError, StorageError
from edgevision.files import write_json
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, load_card, load_checkpoint, save_checkpoint
from edgevision.preprocessing import Preprocessing
from edgevision.tasks import get_task
from edgevision.train.config import TrainConfig, default_config
from edgevision.train.loop import fit
from edgevision.train.results import Progress, TrainResult


@dataclass(frozen=True)
class TrainedModel:
    """What ``train`` gives.

    Attributes:
        folder: the checkpoint, usable as MODEL.
        card: what was written to its ``model.json``.
        result: the trained network, its figures and history.
    """

    folder: Path
    card: ModelCard
    result: TrainResult


def train(
    model: str,
    data: str | DataSplits,
    *,
    out: Path,
    config: TrainConfig | None = None,
    task: str = "classification",
    image_size: tuple[int, int] | None = None,
    teacher: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Train a network and write its checkpoint.

    Args:
        model: see ``edgevision.models.create``.
        data: what ``edgevision.data.load_data`` takes, or splits that are loaded already.
        out: folder of the checkpoint: ``model.safetensors``, ``model.json``, ``history.json``, and
            ``training.safetensors``, from which an interrupted run is carried on.
        config: default the one that suits the model.
        image_size: (height, width); default the checkpoint's where ``model`` is one, else the
            data's own.
        teacher: checkpoint folder of a network to distil from, with the same labels and input.
        progress: called now and then with where the run stands.

    Raises:
        ModelError, DataError, UsageError: as ``create``, ``load_data`` and ``fit`` raise them.
        StorageError: ``out`` is a file.
    """
    if out.exists() and not out.is_dir():  # told before hours of training, not after
        raise StorageError(f"{out} is a file; a checkpoint is a folder.", hint="Choose another.")
    config = config or default_config(model)
    the_task = get_task(task)
    splits = load_data(data, image_size=image_size) if isinstance(data, str) else data
    preprocessing = splits.preprocessing
    reference, structure = model, None
    if Path(model).is_dir():  # a checkpoint that is trained on: keep what it is made of
        base = load_card(Path(model))
        reference, structure = base.reference, base.structure
        preprocessing = base.as_preprocessing()  # the weights fit no other input
        if image_size is not None:
            preprocessing = replace(preprocessing, height=image_size[0], width=image_size[1])
    module = create(
        model,
        num_classes=len(splits.labels),
        in_channels=preprocessing.channels,
        image_size=(preprocessing.height, preprocessing.width),
    )
    guide = _load_teacher(teacher, splits, preprocessing) if teacher is not None else None
    result = fit(
        module,
        splits,
        preprocessing,
        the_task,
        config,
        folder=out,
        teacher=guide,
        progress=progress,
    )
    card = ModelCard(
        reference=reference,
        task=task,
        labels=splits.labels,
        in_channels=preprocessing.channels,
        preprocessing=preprocessing.to_dict(),
        structure=structure,
        metrics=result.metrics,
        lineage={
            "data": splits.reference,
            "train_fingerprint": splits.train.fingerprint(),
            "config": config.model_dump(mode="json", exclude={"weights"}),
            "precision": result.precision,
            **({"teacher": str(teacher)} if teacher is not None else {}),
            "edgevision": edgevision.__version__,
        },
    )
    if result.main_process:
        save_checkpoint(out, module, card)
        write_json(out / "history.json", result.history)
    return TrainedModel(out, card, result)


def _load_teacher(folder: Path, splits: DataSplits, preprocessing: Preprocessing) -> nn.Module:
    """The network to distil from.

    Raises:
        ModelError: no checkpoint, or one for other labels or another input than the student's.
    """
    module, card = load_checkpoint(folder)
    if card.labels != splits.labels:
        raise ModelError(
            f"The teacher {folder} knows {_listed(card.labels)}, the data "
            f"{_listed(splits.labels)}: classes must be the same in the same order.",
            hint="Distil from a network that was trained on these classes.",
        )
    if card.as_preprocessing() != preprocessing:
        raise ModelError(
            f"The teacher {folder} takes another input than the network that is trained: "
            f"{card.as_preprocessing()}, expected {preprocessing}.",
            hint="Both see the same tensor: size, channels, mean and standard deviation must be "
            "equal. Set --image-size to the teacher's, or train one on this data.",
        )
    return module


def _listed(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:3])
    return f"{len(labels)} classes ({shown}{', ...' if len(labels) > 3 else ''})"
