"""PyTorch on the CPU: the FP32 baseline as it was trained, to compare the others with."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevision.backends.base import Arrays, Artifact, Backend, BuildOptions, Runner
from edgevision.errors import InputError, UsageError
from edgevision.files import sha256_file
from edgevision.lazy import require
from edgevision.types import Availability, LayerInfo, TensorSpec

if TYPE_CHECKING:
    import torch

_WEIGHTS = "model.safetensors"
_INPUT = "images"
_PROFILED_RUNS = 5


class PyTorchBackend(Backend):
    """Opens the checkpoints that training writes; it compiles nothing.

    The artifact is ``model.safetensors`` with ``model.json`` beside it: weights and description, no
    pickle. ``build`` loads a checkpoint, which checks it, and writes it anew.
    """

    name = "pytorch"
    artifact_suffix = ".safetensors"
    source = f"the {_WEIGHTS} of a checkpoint"
    install = "Install it with: pip install 'edgevision[train]'"

    def is_available(self) -> Availability:
        try:
            import torch
        except ImportError as error:
            return Availability(False, f"torch cannot be imported: {error}")
        return Availability(True, f"torch {torch.__version__}")

    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact:
        import torch

        for path in (source, output):
            if path.name != _WEIGHTS:
                raise UsageError(
                    f"A checkpoint's weights are called {_WEIGHTS}, got '{path.name}'."
                )
        checkpoints = _checkpoints()
        module, card = checkpoints.load_checkpoint(source.parent)
        checkpoints.save_checkpoint(output.parent, module, card)
        meta = {
            "backend": self.name,
            "version": torch.__version__,
            "sha256": sha256_file(output),
        }
        return Artifact(self.name, output, meta)

    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner:
        """``threads`` is a setting of the whole process in torch; ``close`` puts it back."""
        from edgevision.tasks import get_task

        module, card = _checkpoints().load_checkpoint(artifact.path.parent)
        shape = card.as_preprocessing().input_shape
        return TorchRunner(
            module,
            TensorSpec(_INPUT, ("batch", *shape)),
            get_task(card.task).output_names,
            threads=threads,
        )

    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        """Modules without children in the order they ran, with the median time of a few runs."""
        module, card = _checkpoints().load_checkpoint(artifact.path.parent)
        return _profile(module, card.as_preprocessing().input_shape)


class TorchRunner(Runner):
    """A module in evaluation mode, channels last. Outputs belong to the caller.

    Args:
        module: returns a tensor, or a list or tuple of them.
        input_spec: float32, NCHW.
        output_names: one for each tensor, in order.
        threads: for the whole process while this is open; None leaves torch's own.

    Raises:
        InputError: the module returns something else than ``output_names`` says.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        input_spec: TensorSpec,
        output_names: tuple[str, ...],
        *,
        threads: int | None = None,
    ) -> None:
        import torch

        self._torch = torch
        self._module: Any = module.eval().to(memory_format=torch.channels_last)
        self._output_names = output_names
        self._input = input_spec.name
        sizes = [size if isinstance(size, int) else 1 for size in input_spec.shape]
        outputs = self._run(np.zeros(sizes, input_spec.dtype))
        if len(outputs) != len(output_names):
            raise InputError(f"Outputs expected: {list(output_names)}, given: {len(outputs)}.")
        super().__init__(
            (input_spec,),
            tuple(
                TensorSpec(name, (input_spec.shape[0], *array.shape[1:]), array.dtype.name)
                for name, array in zip(output_names, outputs, strict=True)
            ),
        )
        self._threads_before = torch.get_num_threads() if threads is not None else None
        if threads is not None:
            torch.set_num_threads(threads)

    def _run(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        torch = self._torch
        if not (images.flags.writeable and images.flags.c_contiguous):
            images = images.copy()  # torch cannot share what is read-only or runs backwards
        with torch.inference_mode():
            # A copy: an in-place first layer must not write into the caller's array.
            batch = torch.from_numpy(images).clone(memory_format=torch.channels_last)
            found = self._module(batch)
        tensors = found if isinstance(found, (list, tuple)) else [found]
        return [tensor.contiguous().numpy() for tensor in tensors]

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self._output_names, self._run(inputs[self._input]), strict=True))

    def _fork_impl(self) -> Runner:
        return TorchRunner(self._module, self.input_specs[0], self._output_names)

    def _close_impl(self) -> None:
        if self._threads_before is not None:
            self._torch.set_num_threads(self._threads_before)
        self._module = None


def _checkpoints() -> Any:
    """The checkpoint format; by name, because ``models`` stands above ``backends``."""
    return require("edgevision.models.checkpoint")


def _profile(module: torch.nn.Module, shape: tuple[int, ...]) -> tuple[LayerInfo, ...]:
    import torch

    leaves = {name: part for name, part in module.named_modules() if not any(part.children())}
    started: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    types: dict[str, str] = {}

    def before(name: str) -> Any:
        def hook(part: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            types[name] = str(inputs[0].dtype).removeprefix("torch.") if inputs else "none"
            started[name] = time.perf_counter()

        return hook

    def after(name: str) -> Any:
        def hook(part: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            times.setdefault(name, []).append((time.perf_counter() - started[name]) * 1000)

        return hook

    handles = []
    for name, part in leaves.items():
        handles.append(part.register_forward_pre_hook(before(name)))
        handles.append(part.register_forward_hook(after(name)))
    try:
        with torch.inference_mode():
            for _ in range(_PROFILED_RUNS):
                module(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    return tuple(
        LayerInfo(
            name or type(module).__name__,
            type(leaves[name]).__name__,
            short.get(types[name], types[name]),
            median(spent),
        )
        for name, spent in times.items()
    )
