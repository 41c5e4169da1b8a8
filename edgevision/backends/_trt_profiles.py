"""Optimization profiles: which shapes of the inputs with free axes an engine serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevision.backends.base import BuildOptions
from edgevision.backends.shapes import InputShapes, Shape, shape_text
from edgevision.errors import ModelError, UsageError, unknown_name


def set_profile(builder: Any, config: Any, network: Any, options: BuildOptions) -> None:
    """One profile: ``options.shapes`` where they name an input, else over the batch.

    Raises:
        ModelError: an input has free axes that nothing says the sizes of, or other fixed ones.
        UsageError: ``options.shapes`` names an input that the network has not, or shapes of DLA
            that are not fixed.
    """
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    wanted = profile_shapes({tensor.name: tuple(tensor.shape) for tensor in tensors}, options)
    profile = builder.create_optimization_profile()
    for name, shapes in wanted.items():
        profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
    if wanted and config.add_optimization_profile(profile) < 0:
        raise ModelError("The builder refuses the optimization profile of these shapes.")


def profile_shapes(inputs: Mapping[str, Shape], options: BuildOptions) -> dict[str, InputShapes]:
    """The shapes of those ``inputs`` that have free axes (-1), by name.

    Raises:
        ModelError, UsageError: as ``set_profile``.
    """
    for name in options.shapes:
        if name not in inputs:
            raise UsageError(unknown_name("input", name, inputs))
    found = {}
    for name, shape in inputs.items():
        wanted = options.shapes.get(name) or _over_batch(name, shape, options)
        _check(name, shape, wanted)
        if options.dla_core is not None and wanted.min != wanted.max:
            raise UsageError(
                f"DLA takes fixed shapes only, input '{name}' would be "
                f"{shape_text(wanted.min)} to {shape_text(wanted.max)}.",
                hint="Give one size: --min-batch and --max-batch alike.",
            )
        if any(size < 0 for size in shape):
            found[name] = wanted
    return found


def _over_batch(name: str, shape: Shape, options: BuildOptions) -> InputShapes:
    """The profile of an input whose first axis alone is free, or none."""
    if any(size < 0 for size in shape[1:]):
        example = shape_text(tuple(size if size >= 0 else 224 for size in (1, *shape[1:])))
        raise ModelError(
            f"Input '{name}' has the shape {list(shape)} (-1 is free), and nothing says which "
            "sizes of its free axes the engine has to serve.",
            hint=f"For example: --min-shapes {name}:{example} --opt-shapes … --max-shapes …",
        )
    batch = options.batch
    if all(size >= 0 for size in shape):
        return InputShapes(shape, shape, shape)
    rest = shape[1:]
    return InputShapes((batch.min, *rest), (batch.opt, *rest), (batch.max, *rest))


def _check(name: str, shape: Shape, wanted: InputShapes) -> None:
    for given in (wanted.min, wanted.opt, wanted.max):
        fits = len(given) == len(shape) and all(
            size < 0 or size == given[axis] for axis, size in enumerate(shape)
        )
        if not fits:
            raise ModelError(
                f"Input '{name}' has the shape {list(shape)} (-1 is free), "
                f"asked for {shape_text(given)}."
            )
