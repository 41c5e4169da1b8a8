from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgevision.errors import UsageError
from edgevision.pipeline.store import Stage, StageResult, StageStore


@dataclass
class Job:
    value: int = 1
    fail: bool = False
    runs: list[str] = field(default_factory=list)


class Write(Stage[Job]):
    name = "write"

    def depends(self, job: Job) -> dict[str, Any]:
        return {"value": job.value}

    def run(self, job: Job, work: Path) -> None:
        job.runs.append("found" if (work / "half").exists() else "fresh")
        (work / "half").write_text("half")
        if job.fail:
            raise RuntimeError("killed")
        (work / "result.txt").write_text(str(job.value))


class Resume(Write):
    name = "resume"
    resumes = True


def test_a_finished_stage_is_found_again(tmp_path: Path) -> None:
    store, job = StageStore(tmp_path), Job()
    first, second = store.run(Write(), job), store.run(Write(), job)
    assert (first.reused, second.reused, job.runs) == (False, True, ["fresh"])
    assert second.path("result.txt").read_text() == "1"


def test_another_dependency_is_another_result(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    one, two = store.run(Write(), Job(1)), store.run(Write(), Job(2))
    assert one.key != two.key
    assert one.path("result.txt").read_text() == "1"


def test_an_interrupted_stage_leaves_no_result_and_starts_afresh(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        store.run(Write(), Job(fail=True))
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".work"]
    job = Job()
    assert not store.run(Write(), job).reused
    assert job.runs == ["fresh"]


def test_a_stage_that_resumes_finds_what_it_left(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        store.run(Resume(), Job(fail=True))
    job = Job()
    store.run(Resume(), job)
    assert job.runs == ["found"]


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "record"])
def test_a_damaged_result_is_made_again(tmp_path: Path, damage: str) -> None:
    store = StageStore(tmp_path)
    folder = store.run(Write(), Job()).folder
    if damage == "changed":
        (folder / "result.txt").write_text("2")
    elif damage == "removed":
        (folder / "result.txt").unlink()
    elif damage == "added":
        (folder / "more").write_text("x")
    else:
        (folder / "stage.json").write_text("{")
    again = store.run(Write(), Job())
    assert not again.reused
    assert again.path("result.txt").read_text() == "1"


def test_two_processes_do_not_share_a_store(tmp_path: Path) -> None:
    with (
        StageStore(tmp_path).locked(),
        pytest.raises(UsageError, match="Another edgevision is working"),
        StageStore(tmp_path).locked(),
    ):
        pass


def test_a_stage_may_ask_to_be_made_again(tmp_path: Path) -> None:
    class Doubtful(Write):
        def reusable(self, result: StageResult) -> bool:
            return result.path("result.txt").read_text() == "2"

    store = StageStore(tmp_path)
    assert not store.run(Doubtful(), Job(1)).reused
    assert not store.run(Doubtful(), Job(1)).reused
    store.run(Doubtful(), Job(2))
    assert store.run(Doubtful(), Job(2)).reused
