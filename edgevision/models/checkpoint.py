"""Trained networks on disk: weights, card, perhaps the traced network; one folder, no pickle."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgevision.errors import InputError, ModelError
from edgevision.files import atomic_path, write_json
from edgevision.models.create import CONVERT_HINT, PICKLES, create
from edgevision.models.factory import check_trust, factory_sha256, is_factory
from edgevision.models.traced import TRACED, TracedNetwork, read_traced
from edgevision.preprocessing import Preprocessing

WEIGHTS = "model.safetensors"
_FACTORY_SHA256 = "factory_sha256"  # in the lineage
CARD = "model.json"
_MAX_CARD_BYTES = 16 * 2**20


class ModelCard(BaseModel):
    """What must be known beside the weights to rebuild and feed a network.

    Attributes:
        reference: what ``create`` takes for the unpruned network; no checkpoint folder.
        task: name of the task.
        labels: class names in head order.
        in_channels: 1 for gray, 3 for RGB.
        preprocessing: fields of ``Preprocessing``.
        structure: widths of a pruned network as ``edgevision.pruning.structure_of`` gives them.
        metrics: figures on the validation split.
        lineage: where it came from: data, recipe, seed, versions; plain JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(min_length=1)
    task: str
    labels: tuple[str, ...] = Field(min_length=1)
    in_channels: int = Field(ge=1)
    preprocessing: dict[str, Any]
    structure: dict[str, Any] | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    lineage: dict[str, Any] = Field(default_factory=dict)

    def as_preprocessing(self) -> Preprocessing:
        """The ``preprocessing`` field as the value that the other parts take."""
        try:
            return Preprocessing.from_dict(self.preprocessing)
        except InputError as error:
            raise ModelError(f"{CARD}: preprocessing is not usable: {error}") from error


def save_checkpoint(
    folder: Path, module: nn.Module, card: ModelCard, *, traced: dict[str, Any] | None = None
) -> None:
    """Write the network; each file appears whole or not at all, the card last.

    Of a network from ``file.py:factory`` the card's lineage gets the sha256 of that file.

    Args:
        traced: of ``trace_network``, so that it loads where its class is not at hand.

    Raises:
        ModelError: the weights hold NaN or infinity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    check_finite(state, str(folder))
    save_tensors(folder / WEIGHTS, state)
    if isinstance(module, TracedNetwork):
        traced = module.document
    (folder / TRACED).unlink(missing_ok=True)  # of another network
    if traced is not None:
        write_json(folder / TRACED, traced)
    sha = factory_sha256(card.reference)
    if sha is not None:
        lineage = {_FACTORY_SHA256: sha, **card.lineage}
        card = card.model_copy(update={"lineage": lineage})
    write_json(folder / CARD, card.model_dump(mode="json"))


def load_checkpoint(folder: Path, *, trust_code: bool = False) -> tuple[nn.Module, ModelCard]:
    """The network of ``save_checkpoint``, in evaluation mode, and its card.

    Where its class is not at hand, or may not run, and the checkpoint holds the traced network,
    that is what comes back: it computes and trains alike, but cannot be pruned again.

    Args:
        trust_code: run the ``file.py:factory`` that the card may name, where the file is unchanged;
            so does ``EDGEVISION_TRUST_FACTORY=1``, or that the process was given it as MODEL.

    Raises:
        ModelError: a file is missing, damaged or a pickle; weights are not finite or do not fit
            the network or the labels; the card names code that may not run.
    """
    card = load_card(folder)
    preprocessing = card.as_preprocessing()
    if preprocessing.channels != card.in_channels:
        raise ModelError(
            f"{folder / CARD}: in_channels is {card.in_channels}, but preprocessing gives "
            f"{preprocessing.channels} channel(s)."
        )
    state = load_tensors(folder / WEIGHTS)
    try:
        module = _from_class(folder, card, preprocessing, trust_code)
    except ModelError as error:
        traced = read_traced(folder, instead_of=error.message)
        if traced is None:
            raise
        module = traced
    load_state(module, state, folder / WEIGHTS)
    return module.eval(), card


def _from_class(
    folder: Path, card: ModelCard, preprocessing: Preprocessing, trust_code: bool
) -> nn.Module:
    if is_factory(card.reference):
        expected = card.lineage.get(_FACTORY_SHA256)
        check_trust(card.reference, folder, expected, trust_code=trust_code)
    module = create(
        card.reference,
        num_classes=len(card.labels),
        in_channels=card.in_channels,
        image_size=(preprocessing.height, preprocessing.width),
        folders=False,
    )
    if card.structure is None:
        return module
    from edgevision.pruning import rebuild

    return rebuild(module, card.structure)


def load_card(folder: Path) -> ModelCard:
    """Read and check ``model.json`` alone.

    Raises:
        ModelError: missing, too large, no JSON, or a field is wrong.
    """
    path = folder / CARD
    if not path.is_file():
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix.lower() in PICKLES)
        if pickled:
            raise ModelError(
                f"{folder} has no {CARD} but a pickle ({pickled[0]}), which can run any code when "
                "it is loaded; refused.",
                hint=CONVERT_HINT,
            )
        raise ModelError(
            f"{folder} is no checkpoint: there is no {CARD} in it.",
            hint="A checkpoint is what 'edgevision train' writes to --out.",
        )
    if path.stat().st_size > _MAX_CARD_BYTES:
        raise ModelError(f"{path} is larger than {_MAX_CARD_BYTES} bytes; refused.")
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        raise ModelError(f"{path} is damaged: {field}: {first['msg']}.") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Finite tensors of a safetensors file.

    Raises:
        ModelError: the file is missing, a pickle, truncated or damaged, or holds NaN or infinity.
    """
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"'{path}' is a pickle, which can run any code when it is loaded; refused.",
            hint=CONVERT_HINT,
        )
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.")
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"'{path}' is damaged or no safetensors file ({path.stat().st_size} bytes): {error}.",
            hint="Copy or train it again.",
        ) from error
    check_finite(state, str(path))
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load ``state`` into ``module``; names and shapes must fit exactly.

    Raises:
        ModelError: names what is missing, unknown or of another shape.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"missing: {', '.join(missing[:4])}" if missing else "",
            f"unknown: {', '.join(unknown[:4])}" if unknown else "",
            f"wrong shape: {'; '.join(shapes[:4])}" if shapes else "",
        ]
        raise ModelError(f"'{source}' does not fit the network: {', '.join(filter(None, parts))}.")
    module.load_state_dict(state)


def check_finite(state: dict[str, Tensor], source: str) -> None:
    """Raise ``ModelError`` naming the first tensor of ``state`` that holds NaN or infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"'{source}': {name} holds {count} value(s) that are NaN or infinite.",
                hint="The training has diverged or the file is damaged; use an earlier checkpoint.",
            )


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that appears whole or not at all."""
    # Tied tensors are stored once per name: safetensors refuses shared memory.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise _as_os_error(error, path) from error


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """safetensors hides the cause of a failed write; a full disk must be told as such."""
    full = "No space left" in str(error) or "os error 28" in str(error)
    return OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path))
