"""``verify_bundle``: is this the bundle that was made, and does it compute the same here?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgevision.bundle import AccuracyVerdict, Bundle, open_bundle
from edgevision.bundle.signing import Signer, check_signature
from edgevision.errors import AccuracyBudgetError, BundleError, DataError
from edgevision.machine import Machine
from edgevision.runtime import load
from edgevision.runtime.golden import GoldenCheck, GoldenResult, check_golden

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MeasuredAccuracy:
    """Accuracy measured again, in percent.

    Attributes:
        artifact: what ran.
        metric, value, images: the figure and over how many images.
        stored: the manifest's figure for the shipped artifact and its budget, None without one.
        same_images: whether the images are those of the manifest, by fingerprint; None if it
            names none.
    """

    artifact: str
    metric: str
    value: float
    images: int
    stored: AccuracyVerdict | None
    same_images: bool | None

    @property
    def within_budget(self) -> bool:
        """Whether the drop from the stored baseline stays within the stored budget."""
        if self.stored is None:
            return True
        return round(self.stored.baseline - self.value, 4) <= self.stored.budget


@dataclass(frozen=True)
class BundleCheck:
    """What ``verify_bundle`` found.

    Attributes:
        files, size: those whose hashes were right.
        signer: whose signature was checked, None where none was asked for.
    """

    files: int
    size: int
    choice: str
    golden: GoldenResult
    accuracy: MeasuredAccuracy | None = None
    signer: str | None = None

    def raise_for_result(self) -> None:
        """Do nothing if all is well.

        Raises:
            BundleError: an output is further from its golden vector than the bound.
            AccuracyBudgetError: the accuracy measured here misses the budget.
        """
        bad = [check for check in self.golden.checks if not check.ok]
        if bad:
            raise BundleError(_far(bad[0]), hint="This machine does not compute the same network.")
        if self.accuracy is not None and not self.accuracy.within_budget:
            stored = self.accuracy.stored
            assert stored is not None
            raise AccuracyBudgetError(
                f"Accuracy budget not met: FP32 {stored.baseline:.2f} %, here "
                f"{self.accuracy.value:.2f} %, a drop of "
                f"{stored.baseline - self.accuracy.value:.2f} points where {stored.budget:g} are "
                "allowed."
            )


def verify_bundle(
    path: str | Path,
    *,
    signer: Signer | None = None,
    data: str | None = None,
    threads: int | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> BundleCheck:
    """Check hashes and golden vectors, and with ``data`` the accuracy again.

    Args:
        path: folder or zip.
        signer: who must have signed it; checked after the hashes, before anything is opened.
        data: as ``compress`` takes it; its validation split is measured.
        threads: of the CPU.
        machine: that runs the artifacts, None for this one. Images are read and prepared here.
        progress: called with (images done, images) while measuring accuracy.

    Raises:
        BundleError: damaged or tampered with, not signed by ``signer``, no golden vectors, or
            another preprocessing here.
        DataError: the data cannot be used, or has other labels.
    """
    with open_bundle(path) as bundle:
        if signer is not None:
            check_signature(bundle, signer)
        golden = check_golden(bundle, threads=threads, machine=machine)
        with load(bundle, threads=threads, machine=machine) as model:
            choice = str(model.choice)
        accuracy = None
        if data is not None:
            accuracy = _accuracy(bundle, data, threads, machine, progress)
        sizes = [entry.size for entry in bundle.manifest.artifacts]
    told = str(signer) if signer is not None else None
    return BundleCheck(len(sizes), sum(sizes), choice, golden, accuracy, told)


def _accuracy(
    bundle: Bundle,
    data: str,
    threads: int | None,
    machine: Machine | None,
    progress: Progress | None,
) -> MeasuredAccuracy:
    from edgevision.data import load_data
    from edgevision.pipeline.accuracy import measure_accuracy

    manifest = bundle.manifest
    splits = load_data(data)
    if splits.labels != manifest.labels:
        raise DataError(
            f"Data '{data}' expected: the labels {', '.join(manifest.labels)}; found: "
            f"{', '.join(splits.labels)}."
        )
    # A failed verdict is measured too: what it speaks of, not the baseline that would run.
    failed = manifest.verdict is not None and not manifest.verdict.passed
    artifact = "shipped" if failed else None
    with load(bundle, artifact=artifact, threads=threads, machine=machine) as model:
        measured = measure_accuracy(model, splits.validation, progress)
        role = manifest.artifact(model.choice.path).role
        known = manifest.lineage.digests.get("validation")
        return MeasuredAccuracy(
            artifact=model.choice.path,
            metric=model.task.metric_name,
            value=measured.figures[model.task.metric_name],
            images=measured.images,
            stored=manifest.verdict.accuracy if manifest.verdict and role == "shipped" else None,
            same_images=None if known is None else known == splits.validation.fingerprint(),
        )


def _far(check: GoldenCheck) -> str:
    return (
        f"'{check.artifact}', output '{check.output}' expected: within {check.bound:.3g} of its "
        f"golden vector, found: {check.max_abs:.3g} away."
    )
