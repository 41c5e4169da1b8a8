"""From what the user wrote for MODEL to a network."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.lazy import require
from edgevision.models.factory import from_factory, is_factory
from edgevision.models.families import FAMILIES

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_SEED = 20_240_101  # initial weights are the same in every process, so a run can be repeated


def create(
    reference: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    folders: bool = True,
) -> nn.Module:
    """The network called ``reference``, in evaluation mode, on the CPU, float32.

    Args:
        reference: a family of ours (``cifar-resnet20``), ``timm:NAME``, ``torchvision:NAME``, a
            bare name of either, ``path/file.py:factory``, or a checkpoint folder.
        num_classes: width of the head.
        in_channels: 1 for gray, 3 for RGB.
        image_size: (height, width) of the input in pixels.
        folders: whether it may be a folder; a checkpoint names its network whatever lies here.

    Returns:
        A network from (N, in_channels, height, width) to (N, num_classes) logits. Untrained
        weights are the same at every call; a checkpoint comes with its own.

    Raises:
        ModelError: unknown name, a factory that is missing or fails, a damaged or foreign
            checkpoint, a pickle, or a network that does not fit the data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = _resolve(reference, num_classes, in_channels, image_size, folders)
    return module.eval()


def _resolve(
    reference: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    folders: bool,
) -> nn.Module:
    if reference in FAMILIES:
        family = FAMILIES.get(reference)
        if min(image_size) < family.smallest:
            raise ModelError(
                f"'{reference}' takes images of at least {family.smallest}x{family.smallest} "
                f"pixels, got {image_size[0]}x{image_size[1]}."
            )
        return family.build(num_classes, in_channels, image_size)
    library, _, name = reference.partition(":")
    if library == "timm" and name:
        return _from_timm(name, num_classes, in_channels, image_size)
    if library == "torchvision" and name:
        return _from_torchvision(name, num_classes, in_channels)
    if is_factory(reference):
        return from_factory(
            reference, num_classes=num_classes, in_channels=in_channels, image_size=image_size
        )
    path = Path(reference)
    if folders and path.is_dir():
        return _from_checkpoint(path, num_classes, in_channels)
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"'{reference}' is a pickle, which can run any code when it is loaded; refused.",
            hint=CONVERT_HINT,
        )
    if path.suffix.lower() == ".safetensors":
        raise ModelError(
            f"'{reference}' holds weights without their network.",
            hint="Name the network as MODEL and give the file with --weights, or use the folder "
            "of a checkpoint that has model.json beside the weights.",
        )
    if _is_timm(reference):
        return _from_timm(reference, num_classes, in_channels, image_size)
    if reference in require("torchvision").models.list_models():
        return _from_torchvision(reference, num_classes, in_channels)
    raise ModelError(_unknown(reference))


CONVERT_HINT = (
    "Convert it where you trust it: "
    'safetensors.torch.save_file(torch.load("weights.pth", weights_only=True), '
    '"weights.safetensors").'
)


def _unknown(reference: str) -> str:
    names = [*FAMILIES.names(), *require("timm").list_models()]
    names += require("torchvision").models.list_models()
    near = get_close_matches(reference, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return (
        f"Unknown model '{reference}'.{guess} It can be one of {', '.join(FAMILIES.names())}, a "
        "timm or torchvision name, path/file.py:factory, or a checkpoint folder (with model.json)."
    )


def _is_timm(name: str) -> bool:
    return bool(require("timm").is_model(name))


def _from_timm(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]
) -> nn.Module:
    timm = require("timm")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise ModelError(f"timm has no model '{name}'.{guess}")
    known = timm.get_pretrained_cfg(name)
    # Transformers with position embeddings are built for one size.
    fixed = known is not None and known.fixed_input_size
    size = {"img_size": image_size} if fixed and known.input_size[1:] != image_size else {}
    try:
        module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **size
        )
    except (ArithmeticError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"timm cannot build '{name}' with {num_classes} classes, {in_channels} input "
            f"channel(s) and {image_size[0]}x{image_size[1]} pixels: {error}"
        ) from error
    return _checked(module, f"timm:{name}")


def _from_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    models = require("torchvision").models
    if name not in models.list_models(module=models):
        near = get_close_matches(name, models.list_models(module=models), n=1, cutoff=0.5)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise ModelError(f"torchvision has no classification model '{name}'.{guess}")
    try:
        module = models.get_model(name, weights=None, num_classes=num_classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"torchvision cannot build '{name}': {error}") from error
    if in_channels != 3:
        _replace_first_conv(module, name, in_channels)
    return _checked(module, f"torchvision:{name}")


def _replace_first_conv(module: nn.Module, name: str, in_channels: int) -> None:
    """torchvision's networks take RGB only: give the first convolution other input channels."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            parent, _, child = path.rpartition(".")
            fresh = nn.Conv2d(
                in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            setattr(module.get_submodule(parent), child, fresh)
            return
    raise ModelError(f"torchvision's '{name}' cannot take {in_channels} input channel(s).")


def _checked(module: object, reference: str) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ModelError(f"'{reference}' gave {type(module).__name__}, not a torch.nn.Module.")
    return module


def _from_checkpoint(folder: Path, num_classes: int, in_channels: int) -> nn.Module:
    from edgevision.models.checkpoint import load_checkpoint

    module, card = load_checkpoint(folder)
    if len(card.labels) != num_classes:
        raise ModelError(
            f"The checkpoint {folder} has {len(card.labels)} classes, {num_classes} are asked for.",
            hint="To train it on other classes, name its network and give the checkpoint's "
            "model.safetensors with --weights: the head is replaced.",
        )
    if card.in_channels != in_channels:
        raise ModelError(
            f"The checkpoint {folder} takes {card.in_channels} input channel(s), "
            f"the data has {in_channels}."
        )
    return module
