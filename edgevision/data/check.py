"""What is wrong with a data set, before a network is trained on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevision.data.base import DataSplits, ImageDataset
from edgevision.errors import DataError
from edgevision.tasks.base import Task

EXTREME_ASPECT = 4.0  # longer over shorter side
UNEVEN = 3.0  # images of the most frequent class over those of the rarest
_THREADS = 4
_SHOWN = 5  # examples a finding names


@dataclass(frozen=True)
class Finding:
    """One kind of problem and where it was seen.

    Attributes:
        kind: e.g. ``"unreadable"``.
        is_error: whether the data should not be used so; else it is a warning.
        message: what it means.
        examples: all places, e.g. ``"train/cat/7.png"``.
    """

    kind: str
    is_error: bool
    message: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.examples[:_SHOWN])
        more = f" and {len(self.examples) - _SHOWN} more" if len(self.examples) > _SHOWN else ""
        return f"{self.message}: {shown}{more}" if shown else self.message


@dataclass(frozen=True)
class DataReport:
    """The result of ``check_data``.

    Attributes:
        counts: label → (images in training, images in validation).
        findings: errors first.
    """

    counts: dict[str, tuple[int, int]]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the data unfit."""
        return tuple(finding for finding in self.findings if finding.is_error)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "counts": {label: list(pair) for label, pair in self.counts.items()},
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": "error" if finding.is_error else "warning",
                    "message": finding.message,
                    "examples": list(finding.examples),
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True)
class _Seen:
    """What was read of one image; ``problem`` says why it was not."""

    split: str
    name: str
    target: Any
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    is_constant: bool = False
    problem: str | None = None


def check_data(
    splits: DataSplits,
    task: Task,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Read every image of both splits and report what is wrong.

    Errors: unreadable images, targets the head has no place for, one class only, a class that one
    split lacks, the same pixels in both splits or under two targets. Warnings: the same pixels
    twice in one split, images of one colour, images smaller than the network input or longer than
    4 to 1, uneven classes.

    Args:
        progress: called with images read and images in all.
    """
    parts = {"train": splits.train, "validation": splits.validation}
    total = sum(map(len, parts.values()))
    seen: list[_Seen] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for split, dataset in parts.items():
            # In portions, because every waiting result would hold on to its place in the queue.
            for start in range(0, len(dataset), 1024):
                places = range(start, min(start + 1024, len(dataset)))
                for one in pool.map(lambda i, s=split, d=dataset: _look(s, d, i), places):
                    seen.append(one)
                    if progress is not None:
                        progress(len(seen), total)
    counts, class_findings = _classes(splits, task)
    findings = [*_images(seen, splits), *_duplicates(seen), *class_findings]
    findings.sort(key=lambda finding: not finding.is_error)
    return DataReport(counts, tuple(findings))


def require_targets(dataset: ImageDataset, task: Task, num_classes: int) -> None:
    """Check that a head of ``num_classes`` has a place for every target.

    Raises:
        DataError: it has not; the message names the first image.
    """
    for index in range(len(dataset)):
        if problem := task.check_target(dataset.target(index), num_classes):
            raise DataError(
                f"{dataset.describe(index)}: {problem}",
                hint="Use a model whose head has as many outputs as the data has classes.",
            )


def _look(split: str, dataset: ImageDataset, index: int) -> _Seen:
    name, target = dataset.describe(index), dataset.target(index)
    try:
        image = dataset.image(index)
    except DataError as error:
        return _Seen(split, name, target, problem=error.message)
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return _Seen(
        split,
        name,
        target,
        digest=digest.hexdigest(),
        size=(image.shape[0], image.shape[1]),
        is_constant=bool((image == image[:1, :1]).all()),
    )


def _images(seen: list[_Seen], splits: DataSplits) -> list[Finding]:
    height, width = splits.preprocessing.height, splits.preprocessing.width
    read = [one for one in seen if one.problem is None]
    kinds = (
        (
            "unreadable",
            True,
            "Images that cannot be read",
            [one.problem for one in seen if one.problem is not None],
        ),
        (
            "empty",
            False,
            "Images of one colour",
            [one.name for one in read if one.is_constant],
        ),
        (
            "small",
            False,
            f"Images smaller than the network input of {height}x{width}",
            [
                f"{one.name} ({one.size[0]}x{one.size[1]})"
                for one in read
                if one.size[0] < height or one.size[1] < width
            ],
        ),
        (
            "aspect",
            False,
            f"Images longer than {EXTREME_ASPECT:g} to 1",
            [
                f"{one.name} ({one.size[0]}x{one.size[1]})"
                for one in read
                if max(one.size) > EXTREME_ASPECT * min(one.size)
            ],
        ),
    )
    return [
        Finding(kind, is_error, f"{message} ({len(where)})", tuple(where))
        for kind, is_error, message, where in kinds
        if where
    ]


def _duplicates(seen: list[_Seen]) -> list[Finding]:
    same: dict[str, list[_Seen]] = defaultdict(list)
    for one in seen:
        if one.problem is None:
            same[one.digest].append(one)
    conflicts, across, within = [], [], []
    for group in same.values():
        if len(group) == 1:
            continue
        names = " = ".join(one.name for one in group)
        if any(one.target != group[0].target for one in group):
            conflicts.append(names)
        if len({one.split for one in group}) > 1:
            across.append(names)
        else:
            within.append(names)
    kinds = (
        ("conflict", True, "The same image with different labels", conflicts),
        ("leak", True, "The same image in training and validation", across),
        ("duplicate", False, "The same image more than once in a split", within),
    )
    return [
        Finding(kind, is_error, f"{message} ({len(where)})", tuple(where))
        for kind, is_error, message, where in kinds
        if where
    ]


def _classes(splits: DataSplits, task: Task) -> tuple[dict[str, tuple[int, int]], list[Finding]]:
    labels = splits.labels
    tables = []
    wrong: list[str] = []
    for dataset in (splits.train, splits.validation):
        table = [0] * len(labels)
        for index in range(len(dataset)):
            target = dataset.target(index)
            if problem := task.check_target(target, len(labels)):
                wrong.append(f"{dataset.describe(index)}: {problem}")
                continue
            for number in set(task.classes_of(target)):
                table[number] += 1
        tables.append(table)
    findings = []
    if wrong:
        findings.append(Finding("label", True, f"Labels out of range ({len(wrong)})", tuple(wrong)))
    present = [label for label, count in zip(labels, tables[0], strict=True) if count]
    if len(present) < 2:
        only = f"only '{present[0]}'" if present else "no class at all"
        findings.append(Finding("single-class", True, f"Training shows {only}"))
    for name, table in zip(("training", "validation"), tables, strict=True):
        if absent := [label for label, count in zip(labels, table, strict=True) if not count]:
            message = f"Classes without an image in {name} ({len(absent)})"
            findings.append(Finding("missing-class", True, message, tuple(absent)))
    most, least = max(tables[0], default=0), min((n for n in tables[0] if n), default=0)
    if least and most > UNEVEN * least:
        findings.append(
            Finding(
                "uneven",
                False,
                f"Uneven classes in training: {least} to {most} images a class; "
                "use class weights or balanced sampling",
            )
        )
    return dict(zip(labels, zip(*tables, strict=True), strict=True)), findings
