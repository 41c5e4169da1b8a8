"""One compression in progress: the recipe resolved into the things that the stages work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.errors import ModelError, RecipeError, UnavailableError
from edgevision.files import digest, files_of, sha256_file
from edgevision.pipeline.foreign import (
    Foreign,
    adopt_model,
    input_of_graph,
    is_onnx,
    notes_of,
    require_post_training,
)
from edgevision.pipeline.store import StageResult
from edgevision.preprocessing import Preprocessing
from edgevision.recipe import InputSection, Recipe, merge, validate
from edgevision.tasks import get_task

if TYPE_CHECKING:
    from edgevision.data.base import DataSplits
    from edgevision.models.checkpoint import ModelCard
    from edgevision.pruning import PruneConfig
    from edgevision.targets import Target
    from edgevision.tasks.base import Task
    from edgevision.train import TrainConfig

Progress = Callable[[str, int, int, str], None]
"""Called with (what is going on, done, total, a note such as loss and accuracy)."""


_TARGET_SHOWN = {"name", "backend", "scheme", "scheme_reason", "opset", "round_to"}


def silent(phase: str, done: int, total: int, note: str = "") -> None:
    """Progress that goes nowhere."""


@dataclass
class Job:
    """What the stages read. ``results`` fills up as they finish, by stage name.

    Where MODEL is an ONNX file, ``foreign`` is what it became, and nothing is trained. With
    ``is_offer`` a time out of reach is no error: then it is pruned as far as the widths go.
    """

    recipe: Recipe
    target: Target
    task: Task
    data: DataSplits
    preprocessing: Preprocessing
    train: TrainConfig
    checkpoint: Path | None
    card: ModelCard | None
    prune: PruneConfig | None
    fine_tune: TrainConfig | None
    progress: Progress = silent
    foreign: Foreign | None = None
    qat: TrainConfig | None = None
    is_offer: bool = False
    results: dict[str, StageResult] = field(default_factory=dict)

    def done(self, stage: str) -> StageResult:
        """The result of an earlier stage."""
        return self.results[stage]

    def key(self, stage: str) -> str | None:
        """The key of an earlier stage's result, None where it was not asked for."""
        return self.results[stage].key if stage in self.results else None

    @property
    def fixed_batch(self) -> int | None:
        """The only batch that the graphs take, None where they take any."""
        return self.foreign.adopted.batch if self.foreign else None

    def plan(self) -> dict[str, Any]:
        """Everything that would be done, resolved, as plain JSON values."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "target": self.target.model_dump(mode="json", include=_TARGET_SHOWN),
            "input": self.preprocessing.to_dict(),
            "train": None
            if self.checkpoint or self.foreign
            else self.train.model_dump(mode="json"),
            "adopted": notes_of(self.foreign, self.preprocessing) if self.foreign else None,
            "prune": self.prune.model_dump(mode="json") if self.prune else None,
            "fine_tune": self.fine_tune.model_dump(mode="json") if self.fine_tune else None,
            "images": {"train": len(self.data.train), "validation": len(self.data.validation)},
        }

    def data_digest(self) -> dict[str, str]:
        """The manifest hashes of both splits."""
        return {
            "train": self.data.train.fingerprint(),
            "validation": self.data.validation.fingerprint(),
        }


def prepare(recipe: Recipe, progress: Progress = silent) -> Job:
    """Resolve ``recipe``: target, task, data, model reference and training recipes.

    Raises:
        UsageError: unknown target or task.
        UnavailableError: the target's backend cannot build here and the recipe wants a build.
        DataError, ModelError, RecipeError: what the recipe names cannot be used.
    """
    from edgevision.data import load_data
    from edgevision.pipeline.survey import target_status
    from edgevision.targets import load_target

    is_foreign = is_onnx(recipe.model)
    if is_foreign:
        require_post_training(recipe)
    task = get_task(recipe.task)
    target = load_target(recipe.target)
    if recipe.prune is not None:
        _require_timed(recipe.prune, target)
    if recipe.build:
        builds = target_status(target)
        if not builds.builds.ok:
            raise UnavailableError(
                f"Target '{target.reference}' cannot be built here: {builds.builds.reason}.",
                hint="Use --no-build to stop at the INT8 ONNX graph and build on the device. "
                f"{builds.hint or ''}".rstrip(),
            )
    if recipe.prune is None and (recipe.quantize is None or target.scheme is None):
        raise RecipeError(
            "Nothing to compress with: pruning is off, and "
            + (
                "quantization is off."
                if recipe.quantize is None
                else f"'{target.name}' has no INT8 scheme here ({target.scheme_reason})."
            ),
            hint="Prune (--prune-macs 0.5), or choose another target.",
        )
    if recipe.quantize is not None:
        from edgevision.quantization.calibrators import CALIBRATORS

        CALIBRATORS.get(recipe.quantize.method)
    section = input_of_graph(recipe) if is_foreign else recipe.input
    _trust(recipe.model)
    checkpoint, card = _checkpoint(recipe.model)
    progress("reading the data", 0, 1, recipe.data)
    data = load_data(recipe.data, image_size=section.size)
    progress("reading the data", 1, 1, recipe.data)
    base = Preprocessing.from_dict(card.preprocessing) if card else data.preprocessing
    preprocessing = resolve_input(base, section)
    if card:
        require_labels(recipe.model, card, data)
    if card and preprocessing.channels != card.in_channels:
        raise ModelError(
            f"The checkpoint {recipe.model} takes {card.in_channels} input channel(s), the "
            f"recipe's input has {preprocessing.channels}.",
            hint="Leave recipe.input.color out.",
        )
    foreign = None
    if is_foreign:
        progress("adopting the ONNX file", 0, 1, recipe.model)
        foreign = adopt_model(recipe, target, task, data, preprocessing)
        progress("adopting the ONNX file", 1, 1, recipe.model)
        for note in notes_of(foreign, preprocessing):
            progress(note, 1, 1, "")
    elif card is None:
        _try_to_create(recipe.model, len(data.labels), preprocessing)
    from edgevision.train import TrainConfig, default_config

    reference = card.reference if card else recipe.model
    default = default_config(reference).model_dump()
    given = merge({"seed": recipe.seed}, recipe.train)
    train = validate(TrainConfig, merge(default, given), "recipe.train")
    if train.devices * train.num_nodes > 1:
        raise RecipeError(
            "recipe.train: compress trains in one process; devices and num_nodes must be 1.",
            hint="Train with several first: edgevision train; its checkpoint is a MODEL.",
        )
    prune, fine_tune = _pruning(recipe, train)
    return Job(
        recipe, target, task, data, preprocessing, train, checkpoint, card, prune, fine_tune,
        progress, foreign, _qat(recipe, train),
    )  # fmt: skip


def require_labels(model: str, card: ModelCard, data: DataSplits) -> None:
    """Refuse data whose classes are not those of the checkpoint ``model``.

    Raises:
        ModelError: they differ, in names or in order.
    """
    if tuple(card.labels) != tuple(data.labels):
        raise ModelError(
            f"The checkpoint {model} knows {len(card.labels)} classes "
            f"({_some(card.labels)}), the data {len(data.labels)} ({_some(data.labels)}).",
            hint="Train it on this data first: edgevision train, with train.weights set to it.",
        )


def _require_timed(prune: Mapping[str, Any], target: Target) -> None:
    """Refuse a time to prune to unless this machine can time what ``target`` runs."""
    from edgevision.pipeline.survey import timing_status
    from edgevision.pruning.config import asks_for_time

    if not asks_for_time(prune):
        return
    times = timing_status(target)
    if not times.ok:
        raise UnavailableError(
            f"Pruning to a time needs times of the target, and '{target.reference}' cannot be "
            f"timed here: {times.reason}.",
            hint=f"Prune to a share of the MACs instead (--prune-macs 0.5). {times.hint}".rstrip(),
        )


def _trust(model: str) -> None:
    """A factory that the user named may run; one that only a checkpoint names may not."""
    from edgevision.models import trust_factory

    trust_factory(model)


def _try_to_create(model: str, classes: int, preprocessing: Preprocessing) -> None:
    """Fail now, not after the data are read and hours are spent."""
    from edgevision.models import create

    channels, height, width = preprocessing.input_shape
    create(model, num_classes=classes, in_channels=channels, image_size=(height, width))


def model_digest(recipe: Recipe, checkpoint: Path | None, card: ModelCard | None) -> str:
    """What the model is, as a hash: a checkpoint's files, a factory's source, or a name."""
    reference = card.reference if card else recipe.model
    file = Path(reference.rpartition(":")[0])
    source = sha256_file(file) if file.suffix == ".py" and file.is_file() else None
    files = files_of(checkpoint) if checkpoint else None
    if source is None:
        return digest(files) if files is not None else digest({"name": reference})
    factory = reference.rpartition(":")[2]
    return digest({"file": source, "factory": factory, "checkpoint": files})


def resolve_input(base: Preprocessing, section: InputSection) -> Preprocessing:
    """``base`` with the recipe's input fields put in; means follow a change of colour."""
    given: dict[str, Any] = section.model_dump(exclude_none=True)
    if "size" in given:
        given["height"], given["width"] = given.pop("size")
    values = {**base.to_dict(), **given}
    channels = 1 if values["color"] == "gray" else 3
    for name in ("mean", "std"):
        if len(values[name]) != channels and name not in given:
            values[name] = [sum(values[name]) / len(values[name])] * channels
    return Preprocessing.from_dict(values)


def _checkpoint(model: str) -> tuple[Path | None, ModelCard | None]:
    folder = Path(model)
    if not folder.is_dir():
        return None, None
    from edgevision.models.checkpoint import load_card

    return folder, load_card(folder)


def _qat(recipe: Recipe, train: TrainConfig) -> TrainConfig | None:
    if recipe.quantize is None:
        return None
    from edgevision.pipeline.qat import default_qat_config
    from edgevision.train import TrainConfig

    base = {**default_qat_config(train).model_dump(), "seed": recipe.seed}
    given = merge(base, recipe.quantize.qat.train)
    return validate(TrainConfig, given, "recipe.quantize.qat.train")


def _pruning(recipe: Recipe, train: TrainConfig) -> tuple[PruneConfig | None, TrainConfig | None]:
    if recipe.prune is None:
        return None, None
    from edgevision.pruning import PruneConfig
    from edgevision.train import TrainConfig

    given = {"seed": recipe.seed, **recipe.prune}
    tune = given.pop("fine_tune", None) or {}
    prune = validate(PruneConfig, given, "recipe.prune")
    # The network is near its optimum already: a fifth of the epochs, a third of the peak rate.
    shorter = {
        **train.model_dump(),
        "epochs": max(1, round(train.epochs / 5)),
        "learning_rate": train.learning_rate / 3,
        "muon_learning_rate": train.muon_learning_rate / 3,
        "freeze_epochs": 0,
        "weights": None,
    }
    return prune, validate(TrainConfig, merge(shorter, tune), "recipe.prune.fine_tune")


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
