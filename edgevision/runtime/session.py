"""``load``: opens a bundle and gives back a callable model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from edgevision.errors import (
    BundleError,
    DataError,
    InputError,
    LostConnectionError,
    StorageError,
    UnavailableError,
    UsageError,
)
from edgevision.machine import ThisMachine
from edgevision.preprocessing import Float32
from edgevision.runtime import inputs
from edgevision.runtime.choose import (
    ONNXRUNTIME,
    Choice,
    asked_for,
    backend_for,
    by_default,
    engine_obstacle,
    or_rebuild,
)
from edgevision.tasks import get_task
from edgevision.tasks.base import Prediction

if TYPE_CHECKING:
    from PIL import Image

    from edgevision.backends.base import Artifact, Pending, Runner
    from edgevision.bundle import ArtifactEntry, Bundle
    from edgevision.bundle.signing import Signer
    from edgevision.machine import Machine

    Outputs = dict[str, npt.NDArray[Any]]
    FileLike = str | Path | Image.Image
    Images = FileLike | npt.NDArray[Any] | list[Any] | tuple[Any, ...]

_LOG = logging.getLogger("edgevision.runtime")
_BATCH = 32  # images a call where the artifact accepts any number: bounds memory, keeps the speed


@dataclass(frozen=True)
class FileResult:
    """One file of a folder: its prediction, or the error that made it unreadable."""

    path: Path
    prediction: Prediction | None = None
    error: DataError | None = None


class PendingPrediction:
    """A prediction under way, as ``Model.predict_async`` gives it."""

    def __init__(self, pending: Pending, decode: Callable[[Outputs], Prediction]) -> None:
        self._pending, self._decode = pending, decode

    def result(self) -> Prediction:
        """Wait for it.

        Raises:
            InputError: the inference failed.
        """
        return self._decode(self._pending.result())


class Model:
    """An opened bundle. A context manager; for one thread at a time, ``fork`` gives another.

    Attributes:
        choice: which artifact runs, and why.
        labels: class names in head order.
        preprocessing: from image to tensor.
        task: decodes outputs and draws predictions.
        runner: the opened artifact, for callers that hold tensors.
        bundle: the checked bundle.
    """

    def __init__(
        self, bundle: Bundle, runner: Runner, choice: Choice, *, owns_bundle: bool = True
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.runner = runner
        self.choice = choice
        self.labels = manifest.labels
        self.preprocessing = manifest.preprocess()
        self.task = get_task(manifest.task)
        self._owns_bundle = owns_bundle
        self._input, self._smallest, self._batch = _image_input(
            runner, manifest.artifact(choice.path), self.preprocessing.input_shape
        )

    @property
    def artifact(self) -> Artifact:
        """What was opened, as a backend takes it."""
        entry = self.bundle.manifest.artifact(self.choice.path)
        return _artifact(self.bundle, entry, self.choice.backend)

    @overload
    def __call__(self, source: FileLike) -> Prediction: ...

    @overload
    def __call__(self, source: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def __call__(self, source: npt.NDArray[Any]) -> Any: ...

    def __call__(self, source: Images) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            source: an (H, W, 3) uint8 RGB array, a file's path or a Pillow image; or a list of
                these, or an (N, H, W, 3) uint8 array.

        Returns:
            The task's prediction, or a list of as many as there were images.

        Raises:
            DataError: no readable image, or an array of another shape or dtype.
        """
        images, single = inputs.as_images(source)
        predictions = self._predict(images)
        return predictions[0] if single else predictions

    def predict_async(self, source: FileLike | npt.NDArray[np.uint8]) -> PendingPrediction:
        """Start to predict one image and come back, so that the next one is read meanwhile.

        One at a time: ask for the result before the next call. An artifact with a fixed batch
        takes its image as many times.

        Raises:
            DataError: as for a call.

        Example:
            >>> pending = model.predict_async(camera.read())
            >>> frame = camera.read()          # while the network runs
            >>> shown = pending.result()
        """
        images, single = inputs.as_images(source)
        if not single:
            raise UsageError(f"predict_async takes one image, got {len(images)}.")
        tensor = np.repeat(self.preprocess(images), self._smallest, axis=0)
        pending = self.runner.infer_async({self._input: tensor})

        def decode(outputs: Outputs) -> Prediction:
            return self.task.decode({k: v[:1] for k, v in outputs.items()}, self.labels)[0]

        return PendingPrediction(pending, decode)

    def fork(self) -> Model:
        """Another model on the weights that this one has loaded, for another thread.

        It is closed on its own, and goes on when this one is closed.

        Raises:
            UsageError: this one is closed, or its network cannot be shared: load the bundle again.
        """
        return Model(self.bundle, self.runner.fork(), self.choice, owns_bundle=False)

    def infer(self, tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the network on preprocessed tensors; see ``edgevision.backends.base.Runner``."""
        return self.runner.infer(tensors)

    def preprocess(self, images: Iterable[npt.NDArray[np.uint8]]) -> Float32:
        """(H, W, 3) uint8 RGB images, at least one, to (N, C, height, width) float32."""
        return self.preprocessing.normalize(
            np.stack([self.preprocessing.geometry(image) for image in images])
        )

    def infer_images(self, images: Sequence[npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs for (H, W, 3) uint8 RGB images, at least one, each output with N rows.

        The arrays belong to the caller.
        """
        size = self._batch
        chunks = (self.preprocess(images[i : i + size]) for i in range(0, len(images), size))
        return self._joined(chunks)

    def infer_tensor(self, tensor: Float32) -> dict[str, npt.NDArray[Any]]:
        """The same for (N, C, height, width) float32, in as many calls as the artifact needs."""
        return self._joined(tensor[i : i + self._batch] for i in range(0, len(tensor), self._batch))

    def _joined(self, chunks: Iterable[Float32]) -> dict[str, npt.NDArray[Any]]:
        parts = []
        for tensor in chunks:
            count = len(tensor)
            if count < self._smallest:
                tensor = np.concatenate([tensor, *([tensor[-1:]] * (self._smallest - count))])
            outputs = self.runner.infer({self._input: tensor})
            # Copied where the next call would overwrite them.
            copy = self.runner.outputs_reused
            parts.append({k: v[:count].copy() if copy else v[:count] for k, v in outputs.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Prediction]:
        if not images:
            return []
        return self.task.decode(self.infer_images(images), self.labels)

    def predict_folder(self, folder: str | Path) -> Iterator[FileResult]:
        """Predict every image file under ``folder``, in the order of their paths.

        An unreadable file gives a result with its error, and the next one follows.

        Raises:
            DataError: there is no such folder, or no image file in it.
        """
        return self.predict_files(inputs.image_files(Path(folder)))

    def predict_files(self, paths: Iterable[str | Path]) -> Iterator[FileResult]:
        """Predict files one by one; see ``predict_folder``."""
        for path in map(Path, paths):
            try:
                yield FileResult(path, prediction=self(path))
            except DataError as error:
                yield FileResult(path, error=error)

    def close(self) -> None:
        """Free the network and the temporary files of a zip; a second call does nothing."""
        self.runner.close()
        if self._owns_bundle:
            self.bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | Path | Bundle,
    *,
    artifact: str | None = None,
    threads: int | None = None,
    machine: Machine | None = None,
    signer: Signer | None = None,
) -> Model:
    """Open a bundle with the best artifact that this machine can run.

    Every hash is checked first; an engine whose hash is wrong is passed over. One that fits this
    machine by its sidecar (``edgevision.runtime.fits``) comes before the ONNX file of this CPU's
    quantization scheme, run by the backend that it was measured on, and that before the FP32
    baseline. Where the bundle's verdict failed, the baseline runs, and an engine whose accuracy was
    never proven does not. ``model.choice`` says which was taken and why the others were not.

    Args:
        path: a bundle's folder or zip, or an opened bundle, which then stays open on close.
        artifact: path of a runnable artifact in the bundle, or ``"baseline"`` or ``"shipped"``;
            None to choose.
        threads: of the CPU, None for the SDK's own choice.
        machine: that runs the network, None for this one. Images are read and prepared here.
        signer: who must have signed the bundle, checked after the hashes and before anything is
            opened; None to ask nobody.

    Raises:
        BundleError: the bundle is damaged, tampered with or of an unknown version, in more than
            engines that were not named, or not signed by ``signer``.
        UnavailableError: nothing in it runs here, or ``artifact`` does not; says why.
        UsageError: ``artifact`` names nothing that can be run.

    Example:
        >>> with load("bundle/") as model:
        ...     print(model("photo.jpg"))
    """
    from edgevision.bundle import Bundle, open_bundle

    owned = not isinstance(path, Bundle)
    bundle = path if isinstance(path, Bundle) else open_bundle(path, strict=False)
    try:
        if signer is not None:
            from edgevision.bundle.signing import check_signature

            check_signature(bundle, signer)
        runner, choice = _open(bundle, artifact, threads, machine or ThisMachine())
        try:
            return Model(bundle, runner, choice, owns_bundle=owned)
        except BaseException:
            runner.close()
            raise
    except BaseException:
        if owned:
            bundle.close()
        raise


def _open(
    bundle: Bundle, artifact: str | None, threads: int | None, machine: Machine
) -> tuple[Runner, Choice]:
    image_shape = bundle.manifest.preprocess().input_shape

    def opened(entry: ArtifactEntry) -> Runner:
        runner = machine.open(
            _artifact(bundle, entry, backend_for(entry, machine)[0]), threads=threads
        )
        try:
            _image_input(runner, entry, image_shape)
        except BaseException:
            runner.close()
            raise
        return runner

    if artifact is not None:
        entry = asked_for(bundle.manifest, artifact)
        if entry.kind == "engine" and entry.path not in bundle.damaged:
            obstacle = engine_obstacle(bundle, entry, machine)
            if obstacle is not None:
                raise UnavailableError(f"'{entry.path}' does not run on {machine}: {obstacle}.")
        return opened(entry), _choice(entry, "asked for", [], machine)
    passed_over: list[str] = []
    for entry, reason, obstacle in by_default(bundle, machine):
        if obstacle is None:
            try:
                return opened(entry), _choice(entry, reason, passed_over, machine)
            except (LostConnectionError, StorageError):
                raise  # of the way there, not of this artifact
            except (UnavailableError, InputError) as error:
                # An engine that fits by its sidecar may still be refused, by a driver for instance;
                # so may a graph, by another version of the SDK.
                if backend_for(entry, machine)[0] == ONNXRUNTIME and entry.kind != "engine":
                    raise
                obstacle = error.message
                _LOG.warning("%s does not open here: %s", entry.path, obstacle)
                if entry.kind == "engine":
                    obstacle = or_rebuild(bundle, entry, obstacle, machine)
        passed_over.append(f"{entry.path}: {obstacle}")
    raise UnavailableError(
        f"Nothing in the bundle runs on {machine}: " + "; ".join(passed_over or ["it is empty"])
    )


def _artifact(bundle: Bundle, entry: ArtifactEntry, backend: str) -> Artifact:
    from edgevision.backends.base import Artifact

    meta = dict(entry.meta)
    if entry.kind == "engine":
        meta["sha256"] = entry.sha256  # compared again with the bytes that are deserialized
    return Artifact(backend, bundle.path(entry), meta)


def _choice(entry: ArtifactEntry, reason: str, passed_over: list[str], machine: Machine) -> Choice:
    name, _ = backend_for(entry, machine)
    if entry.backend and name != entry.backend:
        reason = f"{reason}; not on {entry.backend}, which it was measured on"
    return Choice(entry.path, name, entry.precision, entry.scheme, reason, tuple(passed_over))


def _image_input(
    runner: Runner, entry: ArtifactEntry, image_shape: tuple[int, int, int]
) -> tuple[str, int, int]:
    """Name of the one image input, and the fewest and the most images a call."""
    if len(runner.input_specs) != 1:
        raise BundleError(f"'{entry.path}' must have one input, has {len(runner.input_specs)}.")
    spec = runner.input_specs[0]
    if not spec.accepts(
        (1 if isinstance(spec.shape[0], str) else spec.shape[0], *image_shape), "float32"
    ):
        raise BundleError(
            f"'{entry.path}' takes {spec}, but the preprocessing gives float32 images of shape "
            f"{image_shape}."
        )
    batch = spec.shape[0]
    if isinstance(batch, int):
        return spec.name, batch, batch
    limits = entry.meta.get("batch")
    if not isinstance(limits, dict):
        return spec.name, 1, _BATCH
    smallest, largest = limits.get("min"), limits.get("max")
    if not isinstance(largest, int) or largest < 1:
        largest = _BATCH
    if not isinstance(smallest, int) or not 1 <= smallest <= largest:
        smallest = 1
    return spec.name, smallest, largest
