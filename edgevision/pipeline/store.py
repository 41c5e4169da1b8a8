"""Stages whose results are kept under a hash of everything they depend on.

A stage writes into ``NAME-KEY.work`` and the folder is renamed to ``NAME-KEY`` when it is whole.
Kill the process at any moment: a finished stage is found again, an interrupted one finds its
working folder (and in it its checkpoints) and carries on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from edgevision.errors import UsageError
from edgevision.files import digest, files_of, publish_folder, write_json

log = logging.getLogger(__name__)

J = TypeVar("J")
_RECORD = "stage.json"


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its folder of named files.

    ``key`` is the sha256 over all that it depends on; ``reused`` says it was found, not run.
    """

    name: str
    key: str
    folder: Path
    reused: bool

    def path(self, name: str) -> Path:
        """The file or folder ``name`` of this result."""
        return self.folder / name

    def json(self, name: str) -> Any:
        """The parsed JSON file ``name`` of this result."""
        return json.loads(self.path(name).read_bytes())


class Stage(ABC, Generic[J]):
    """One step of the flow.

    ``version`` counts up when the stage's code changes what it produces; it is part of the key.
    ``resumes`` says that ``run`` can carry on from what an interrupted run left in its folder.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    resumes: ClassVar[bool] = False

    @abstractmethod
    def depends(self, job: J) -> dict[str, Any]:
        """Everything that the result depends on, as plain JSON values."""

    @abstractmethod
    def run(self, job: J, work: Path) -> None:
        """Produce the result in the folder ``work``."""

    def reusable(self, result: StageResult) -> bool:
        """Whether a whole result from an earlier run may stand; asked only of whole ones."""
        return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for ``folder`` out of it; it is made where it is missing.

    Raises:
        UsageError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another edgevision is working in {folder}.",
                hint="Wait for it, or give another --out folder.",
            ) from None
        yield


class StageStore:
    """The folder in which stages keep their results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for this process.

        Raises:
            UsageError: another process holds it.
        """
        with held(self.root):
            yield

    def run(self, stage: Stage[J], job: J) -> StageResult:
        """The result of ``stage``: found whole from an earlier run, or made now."""
        key = digest({"stage": stage.name, "version": stage.version, **stage.depends(job)})
        final = self.root / f"{stage.name}-{key[:16]}"
        found = StageResult(stage.name, key, final, reused=True)
        if self._is_whole(final, key) and stage.reusable(found):
            return found
        shutil.rmtree(final, ignore_errors=True)
        work = final.with_name(f"{final.name}.work")
        if not stage.resumes:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        (work / _RECORD).unlink(missing_ok=True)
        stage.run(job, work)
        write_json(work / _RECORD, {"stage": stage.name, "key": key, "files": files_of(work)})
        publish_folder(work, final)
        return StageResult(stage.name, key, final, reused=False)

    def _is_whole(self, folder: Path, key: str) -> bool:
        try:
            record = json.loads((folder / _RECORD).read_bytes())
        except (OSError, ValueError):
            return False
        found = {name: entry for name, entry in files_of(folder).items() if name != _RECORD}
        if record.get("key") == key and record.get("files") == found:
            return True
        log.warning("The stored stage %s was changed or damaged; it is made again.", folder.name)
        return False
