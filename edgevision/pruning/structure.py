"""The widths and blocks of a pruned network as JSON values, and back into a fresh module."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.pruning.blocks import remove_blocks

T = TypeVar("T")

VERSION = 1
# What PyTorch's own layers keep to themselves, as the padding of a convolution.
_INTERNAL = frozenset(key for key in vars(nn.Conv2d(1, 1, 1)) if key.startswith("_"))


def structure_of(pruned: nn.Module, original: nn.Module) -> dict[str, Any]:
    """What :func:`rebuild` needs to give ``original`` the widths of ``pruned``.

    Returns:
        ``{"version": 1, "attributes": {module: {name: int | [int]}}, "tensors": {name: [int]}}``
        with only the whole-number attributes and the tensor shapes that differ, such as
        ``in_channels``, ``num_features``, ``normalized_shape``. Weights are stored elsewhere.
        Of private attributes those count that became smaller: a counter of passes is no width.
        Where blocks went, ``"removed": [name]`` beside them: modules of ``original`` that are
        identities in ``pruned``.

    Raises:
        ModelError: the two do not have the same layers besides.
    """
    layers, narrowed = dict(original.named_modules()), dict(pruned.named_modules())
    gone = [
        name
        for name, layer in narrowed.items()
        if isinstance(layer, nn.Identity) and not isinstance(layers.get(name, layer), nn.Identity)
    ]
    layers, tensors = _outside(layers, gone), _outside(_tensors(original), gone)
    narrowed, narrow_tensors = _outside(narrowed, gone), _tensors(pruned)
    if layers.keys() != narrowed.keys() or tensors.keys() != narrow_tensors.keys():
        odd = sorted((layers.keys() ^ narrowed.keys()) | (tensors.keys() ^ narrow_tensors.keys()))
        raise ModelError(
            f"The pruned network does not have the layers of the original: {', '.join(odd[:5])}."
        )
    attributes: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        changed = {
            key: _plain(now)
            for key, now in _numbers(narrowed[name]).items()
            if key in (known := _numbers(layer))
            and now != known[key]
            and (not key.startswith("_") or _is_narrower(now, known[key]))
        }
        if changed:
            attributes[name] = changed
    return {
        "version": VERSION,
        "attributes": attributes,
        "tensors": {
            name: list(narrow_tensors[name].shape)
            for name, tensor in tensors.items()
            if tensor.shape != narrow_tensors[name].shape
        },
        **({"removed": gone} if gone else {}),
    }


def rebuild(module: nn.Module, structure: dict[str, Any]) -> nn.Module:
    """Give an unpruned ``module`` the widths and blocks in ``structure``, in place; return it.

    Narrowed tensors are zero afterwards: load the stored weights next, with ``strict=True``.
    Modes, devices, dtypes, ``requires_grad`` and shared parameters stay.

    Raises:
        ModelError: the structure does not fit the module: unknown version, block, layer or
            attribute, a size that is not a whole number from 1 up to the unpruned one, or sizes
            of one layer that contradict each other. The module is unchanged then.
    """
    attributes, shapes, gone = _parts(structure)
    layers = dict(module.named_modules())
    for name in gone:
        if not name or name not in layers:
            raise ModelError(f"The structure removes '{name}', which the model lacks.")
    layers, tensors = _outside(layers, gone), _outside(_tensors(module), gone)
    for name, changes in attributes.items():
        _check_attributes(name, changes, layers)
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"The structure names tensor '{name}', which the model lacks.")
        _check_sizes(f"tensor '{name}'", shape, tuple(tensors[name].shape))
    wanted = {name: shapes.get(name, list(tensor.shape)) for name, tensor in tensors.items()}
    for name, layer in layers.items():
        _check_layer(name, layer, attributes.get(name, {}), wanted)

    for name, changes in attributes.items():
        for key, value in changes.items():
            kind = type(getattr(layers[name], key))
            setattr(layers[name], key, kind(value))
    replaced: dict[int, torch.Tensor] = {}
    for name, shape in shapes.items():
        old = tensors[name]
        if id(old) not in replaced:
            new = torch.zeros(shape, dtype=old.dtype, device=old.device)
            replaced[id(old)] = (
                nn.Parameter(new, requires_grad=old.requires_grad)
                if isinstance(old, nn.Parameter)
                else new
            )
        owner, _, key = name.rpartition(".")
        setattr(layers[owner], key, replaced[id(old)])
    remove_blocks(module, gone)
    return module


def _outside(values: dict[str, T], blocks: list[str]) -> dict[str, T]:
    """Those of ``values`` by name that belong to none of ``blocks``."""
    return {
        name: value
        for name, value in values.items()
        if not any(name == block or name.startswith(f"{block}.") for block in blocks)
    }


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _numbers(layer: nn.Module) -> dict[str, int | tuple[int, ...] | list[int]]:
    """Attributes of ``layer`` that are whole numbers or sequences of them, not PyTorch's own."""
    return {
        key: value
        for key, value in vars(layer).items()
        if key not in _INTERNAL
        and (
            _is_int(value) or (type(value) in (tuple, list) and value and all(map(_is_int, value)))
        )
    }


def _plain(value: int | tuple[int, ...] | list[int]) -> int | list[int]:
    return list(value) if isinstance(value, (tuple, list)) else value


def _is_narrower(now: Any, known: Any) -> bool:
    """Whether :func:`rebuild` would take ``now`` where ``known`` is."""
    sizes, limits = (
        value if isinstance(value, (tuple, list)) else [value] for value in (now, known)
    )
    fits = (1 <= size <= limit for size, limit in zip(sizes, limits, strict=False))
    return len(sizes) == len(limits) and all(fits)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parts(structure: Any) -> tuple[dict[str, dict[str, Any]], dict[str, list[int]], list[str]]:
    known = {"version", "attributes", "tensors"}
    if not isinstance(structure, dict) or set(structure) - {"removed"} != known:
        raise ModelError(
            "Expected a structure with version, attributes and tensors, "
            f"got {sorted(structure) if isinstance(structure, dict) else type(structure).__name__}."
        )
    if structure["version"] != VERSION:
        raise ModelError(f"Expected structure version {VERSION}, got {structure['version']!r}.")
    attributes, shapes = structure["attributes"], structure["tensors"]
    if not isinstance(attributes, dict) or not isinstance(shapes, dict):
        raise ModelError("Expected attributes and tensors of the structure to be mappings.")
    gone = structure.get("removed", [])
    if not isinstance(gone, list) or not all(isinstance(name, str) for name in gone):
        raise ModelError(f"Expected names of removed blocks in the structure, got {gone!r}.")
    return attributes, shapes, gone


def _check_attributes(name: str, changes: Any, layers: dict[str, nn.Module]) -> None:
    if name not in layers:
        raise ModelError(f"The structure names layer '{name}', which the model lacks.")
    if not isinstance(changes, dict):
        raise ModelError(f"Expected attributes of '{name}', got {type(changes).__name__}.")
    known = _numbers(layers[name])
    for key, value in changes.items():
        if key not in known:
            raise ModelError(f"The structure sets '{key}' of '{name}', which it does not have.")
        present = known[key]
        place = f"'{key}' of '{name}'"
        if isinstance(present, (tuple, list)):
            _check_sizes(place, value, tuple(present))
        else:
            _check_sizes(place, [value], (present,))


def _check_sizes(place: str, value: Any, limit: tuple[int, ...]) -> None:
    if not isinstance(value, list) or len(value) != len(limit) or not all(map(_is_int, value)):
        raise ModelError(f"Expected {len(limit)} whole numbers for {place}, got {value!r}.")
    if not all(1 <= size <= most for size, most in zip(value, limit, strict=True)):
        raise ModelError(f"Expected sizes from 1 up to {list(limit)} for {place}, got {value}.")


def _check_layer(
    name: str, layer: nn.Module, changes: dict[str, Any], wanted: dict[str, list[int]]
) -> None:
    """The shapes of a layer's tensors must be those that its attributes demand."""

    def size(key: str) -> int:
        return int(changes.get(key, getattr(layer, key)))

    prefix = f"{name}." if name else ""
    if isinstance(layer, nn.Linear):
        expected = {"weight": [size("out_features"), size("in_features")]}
        width = size("out_features")
    elif isinstance(layer, nn.modules.conv._ConvNd):
        groups, inputs, width = size("groups"), size("in_channels"), size("out_channels")
        if inputs % groups or width % groups:
            raise ModelError(
                f"Expected channels of '{name}' divisible by its {groups} groups, "
                f"got {inputs} in and {width} out."
            )
        sides = [inputs, width // groups] if layer.transposed else [width, inputs // groups]
        expected = {"weight": [*sides, *layer.kernel_size]}
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        width = size("num_features")
        expected = {key: [width] for key in ("weight", "running_mean", "running_var")}
    else:
        return
    for key, shape in {**expected, "bias": [width]}.items():
        have = wanted.get(prefix + key)
        if have is not None and have != shape:
            raise ModelError(f"Expected {shape} for '{prefix}{key}', got {have}.")
