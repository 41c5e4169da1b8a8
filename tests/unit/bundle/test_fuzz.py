"""Damaged bundles by the thousand: one of our errors or the right bundle, and nothing beside it."""

from __future__ import annotations

import filecmp
import io
import json
import random
import shutil
import signal
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgevision.benchmark.report_schema import ModelSection, Report
from edgevision.bundle import Bundle, Verdict, add_engine, open_bundle, write_zip
from edgevision.cli.inspect import _show
from edgevision.errors import EdgeVisionError
from edgevision.machine import Machine
from edgevision.pipeline.layers import bundle_layers
from edgevision.runtime import load
from edgevision.runtime.golden import check_golden
from tests.unit.backends.vendor import plan
from tests.unit.bundle import mutations
from tests.unit.runtime.boards import Board

_SECONDS = 10  # a case takes milliseconds; on a busy machine more
_SIDECAR = {
    "backend": "tensorrt_rtx",
    "version": "1.7.1.116",
    "compute_capabilities": ["86", "89"],
    "batch": {"min": 1, "opt": 1, "max": 32},
    "platform": "Linux x86_64",
    "layers": [{"name": "conv", "operator": "Conv", "precision": "int8", "nodes": ["conv"]}],
}


_PACKAGES = {"tensorrt-rtx": "1.7.1"}


_ALL = slice(None)


class _Hung(BaseException):
    """A case took too long."""


@pytest.fixture
def whole(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    """A bundle with graphs that run, golden vectors, a report and an engine with its sidecar."""
    folder = make_bundle("whole")
    verdict = Verdict(passed=True, exit_code=0)
    model = ModelSection(reference="net", task="classification", input="input", classes=3)
    report = Report(title="net", model=model, target="cpu", verdict=verdict)
    (folder / "report.json").write_bytes(report.to_bytes())
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_bytes())
    values["artifacts"].append({"path": "report.json", "kind": "report", "sha256": "", "size": 0})
    manifest.write_text(json.dumps(values))
    mutations.restate(folder, folder / "report.json")
    engine = tmp_path / "net.engine"
    engine.write_bytes(plan(b"vtrt"))
    add_engine(folder, "rtx", engine, _SIDECAR, backend="tensorrt_rtx")
    return folder


@pytest.fixture
def place(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cases lie: nothing else there, nor where temporary files go, may change."""
    folder = tmp_path / "a" / "b"
    (folder / "outside").mkdir(parents=True)
    (folder / "outside" / "secret").write_bytes(b"not yours")
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    return folder


@contextmanager
def _limited() -> Iterator[None]:
    def ring(number: int, frame: types.FrameType | None) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run(path: Path, machine: Machine) -> None:
    with load(path, threads=1, machine=machine) as model:
        str(model.choice)
        tensor = np.zeros((1, *model.preprocessing.input_shape), np.float32)
        model.infer_tensor(tensor)


def _outcome(step: Callable[[], object]) -> str:
    try:
        with _limited():
            step()
    except EdgeVisionError as error:
        told = error
    else:
        return "opened"
    assert 0 < len(told.message) < 3000
    return "refused"


def _opened(path: Path, machine: Machine, looks: slice = _ALL) -> str:
    """What becomes of a bundle; anything but one of our errors leaves from here."""
    with ExitStack() as stack:
        opened: list[Bundle] = []
        told = [_outcome(lambda: opened.append(stack.enter_context(open_bundle(path))))]
        for bundle in opened:
            steps = _looks(bundle, machine)[looks]
            told += [_outcome(step) for step in steps]
    told.append(_outcome(lambda: _run(path, machine)))
    return "partly refused" if len({*told}) == 2 else told[0]


def _looks(bundle: Bundle, machine: Machine) -> list[Callable[[], object]]:
    """What ``inspect`` and ``verify`` do first."""
    return [
        lambda: _show(Console(file=io.StringIO(), width=100), bundle),
        lambda: bundle_layers(bundle),
        lambda: check_golden(bundle, threads=1, machine=machine),
    ]


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _fuzz_folders(
    whole: Path,
    place: Path,
    count: int,
    seed: int,
    mutate: Callable[..., None],
    *,
    all_looks: bool = True,
) -> Counter[str]:
    generator, found, machine = random.Random(seed), Counter[str](), Board(packages=_PACKAGES)
    case = Path(shutil.copytree(whole, place / "case", dirs_exist_ok=True))
    for number in range(count):
        mutate(case, generator)
        before = _names(case)
        found[_opened(case, machine, _ALL if all_looks else slice(number % 3, None, 3))] += 1
        assert _names(case) == before, "opening a bundle changes nothing in it"
        _restore(case, whole)
        _check_outside(place)
    return found


def _restore(case: Path, whole: Path) -> None:
    names = _names(whole)
    if _names(case) != names or any(path.is_symlink() for path in case.rglob("*")):
        shutil.rmtree(case)
        shutil.copytree(whole, case)
    for name in names:
        path, good = case / name, whole / name
        if not good.is_dir() and (not path.is_file() or not filecmp.cmp(path, good, shallow=False)):
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            shutil.copyfile(good, path)


def _check_outside(place: Path) -> None:
    beside = {path.name for path in place.iterdir()} | _names(place / "temporary")
    assert beside <= {"outside", "temporary", "case", "case.zip"}
    assert [path.name for path in place.parent.iterdir()] == ["b"]
    assert [path.name for path in (place / "outside").iterdir()] == ["secret"]
    assert (place / "outside" / "secret").read_bytes() == b"not yours"


def _fuzz_zips(
    whole: Path, place: Path, count: int, seed: int, *, all_looks: bool = True
) -> Counter[str]:
    generator, found, machine = random.Random(seed), Counter[str](), Board(packages=_PACKAGES)
    case = place / "case.zip"
    good = write_zip(whole, case).read_bytes()
    for number in range(count):
        case.write_bytes(mutations.mutate_zip(good, generator))
        found[_opened(case, machine, _ALL if all_looks else slice(number % 3, None, 3))] += 1
        _check_outside(place)
    return found


def test_the_whole_bundle_opens_in_every_way(whole: Path, place: Path) -> None:
    assert _opened(whole, Board(packages=_PACKAGES)) == "opened"


_FOLDERS = [mutations.mutate_manifest, mutations.mutate_file, mutations.mutate_folder]


@pytest.mark.parametrize(("mutate", "count"), [*zip(_FOLDERS, (80, 30, 40), strict=True)])
def test_mutated_folders(whole: Path, place: Path, mutate: Callable[..., None], count: int) -> None:
    found = _fuzz_folders(whole, place, count, 7, mutate, all_looks=False)
    assert found["refused"] > 5
    assert len(found) > 1, "some do no harm, or not everywhere"


def test_mutated_zips(whole: Path, place: Path) -> None:
    found = _fuzz_zips(whole, place, 80, 8, all_looks=False)
    assert found["refused"] > 40


@pytest.mark.slow  # ten thousand cases
def test_ten_thousand_mutations(whole: Path, place: Path) -> None:
    found = Counter[str]()
    for seed, mutate in enumerate(_FOLDERS):
        found += _fuzz_folders(whole, place, 2500, 100 + seed, mutate)
    found += _fuzz_zips(whole, place, 2500, 200)
    assert found.total() == 10_000
    assert 5000 < found["refused"] < 10_000
