"""MODEL is an ONNX file: what is asked of it is checked, and it is adopted before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevision.data.base import some_images
from edgevision.errors import ModelError, UsageError
from edgevision.files import digest, sha256_bytes
from edgevision.recipe import InputSection, Recipe

if TYPE_CHECKING:
    from edgevision.data.base import DataSplits
    from edgevision.export.adopt import Adopted
    from edgevision.preprocessing import Preprocessing
    from edgevision.targets import Target
    from edgevision.tasks.base import Task

CHECK_IMAGES = 16


@dataclass(frozen=True)
class Foreign:
    """An adopted ONNX file.

    Attributes:
        adopted: the float graph, checked against the file.
        files: name → sha256 of the file itself, first, and of its external data.
    """

    adopted: Adopted
    files: dict[str, str]

    def digest(self) -> str:
        """sha256 hex over the files and over the graph that they became."""
        graph = self.adopted.model.SerializeToString(deterministic=True)
        return digest({"files": self.files, "graph": sha256_bytes(graph)})

    def lineage(self) -> dict[str, str]:
        """The files' hashes as the manifest keeps them."""
        return {f"onnx:{name}": sha for name, sha in self.files.items()}


def is_onnx(model: str) -> bool:
    """Whether the reference ``model`` means an ONNX file."""
    return model.lower().endswith(".onnx")


def require_post_training(recipe: Recipe) -> None:
    """Refuse what needs a network that can be trained.

    Raises:
        UsageError: the recipe prunes or trains; says what to do instead.
    """
    hint = "Give the network as path/net.py:factory or as a checkpoint, or leave {} out."
    if recipe.prune is not None:
        raise UsageError(
            f"{recipe.model} is an ONNX graph, which cannot be pruned: pruning is followed by "
            "fine-tuning, and a graph cannot be trained.",
            hint=hint.format("pruning"),
        )
    if recipe.train:
        raise UsageError(
            f"{recipe.model} is an ONNX graph, which cannot be trained; the recipe sets "
            f"train: {', '.join(sorted(recipe.train))}.",
            hint=hint.format("training"),
        )


def input_of_graph(recipe: Recipe) -> InputSection:
    """The recipe's input with size and colour as the graph fixes them.

    Raises:
        ModelError: the file cannot be used, or the recipe says otherwise than the graph.
    """
    from edgevision.export.adopt import image_input

    image = image_input(Path(recipe.model))
    color = "gray" if image.channels == 1 else "rgb"
    given = recipe.input
    if given.color not in (None, color):
        raise ModelError(
            f"{recipe.model} takes {image.channels} channel(s), so color '{color}' is expected; "
            f"recipe.input.color is '{given.color}'.",
            hint="Leave recipe.input.color out.",
        )
    fixed = zip((image.height, image.width), given.size or (None, None), strict=True)
    if any(None not in (have, want) and have != want for have, want in fixed):
        raise ModelError(
            f"{recipe.model} takes images of {image.height or 'any'}x{image.width or 'any'} "
            f"pixels; recipe.input.size is {given.size}.",
            hint="Leave recipe.input.size out; the graph says it.",
        )
    if given.size is None and image.size is None and (image.height or image.width):
        raise ModelError(
            f"{recipe.model} takes images of {image.height or 'any'}x{image.width or 'any'} "
            "pixels; recipe.input.size does not say what the free side is.",
            hint="Set recipe.input.size to [height, width].",
        )
    return given.model_copy(update={"size": given.size or image.size, "color": color})


def adopt_model(
    recipe: Recipe, target: Target, task: Task, data: DataSplits, preprocessing: Preprocessing
) -> Foreign:
    """The graph of the file that ``recipe`` names, compared with the file on real images.

    Raises:
        ModelError: see ``edgevision.export.adopt.adopt``.
        DataError: one of the images cannot be read.
    """
    from edgevision.export.adopt import adopt
    from edgevision.export.loading import onnx_files

    path = Path(recipe.model)
    adopted = adopt(
        path,
        opset=target.opset,
        size=(preprocessing.height, preprocessing.width),
        classes=len(data.labels),
        output_name=task.output_names[0],
        images=some_images(data.validation, preprocessing, CHECK_IMAGES),
    )
    return Foreign(adopted, onnx_files(path))


def notes_of(foreign: Foreign, preprocessing: Preprocessing) -> list[str]:
    """What the user should know of: the graph's changes, and how images are fed to it."""
    image = preprocessing
    fed = (
        f"images are fed as {image.color} {image.height}x{image.width} ({image.resize}), "
        f"mean {list(image.mean)}, std {list(image.std)} of pixels in 0..1"
    )
    return [*foreign.adopted.notes, fed]
