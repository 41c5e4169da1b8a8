from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from edgevision.errors import ModelError
from edgevision.models import create, factory, trust_factory
from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from edgevision.preprocessing import Preprocessing

SOURCE = """
import pathlib, torch
pathlib.Path(__file__).with_name("trace").touch()
def make(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, num_classes))
def other(num_classes):
    return make(num_classes)
"""


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(factory.TRUST_VARIABLE, raising=False)
    monkeypatch.setattr(factory, "_trusted", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def build(file: Path) -> Path:
    """A checkpoint of the file's network, as a process that knows nothing of it finds it."""
    folder = file.parent / "checkpoint"
    reference = f"{file}:make"
    module = create(reference, num_classes=2, in_channels=1, image_size=(4, 4))
    card = ModelCard(
        reference=reference,
        task="classification",
        labels=("a", "b"),
        in_channels=1,
        preprocessing=Preprocessing(4, 4, color="gray", mean=(0,), std=(1,)).to_dict(),
        lineage={"data": "toy"},
    )
    save_checkpoint(folder, module, card)
    assert load_checkpoint(folder)[1].lineage == {
        "data": "toy",
        "factory_sha256": sha256(file.read_bytes()).hexdigest(),
    }
    factory._trusted.clear()
    file.with_name("trace").unlink()
    return folder


def refused(folder: Path, message: str, *, trust_code: bool = False) -> None:
    trace = folder.parent / "trace"
    with pytest.raises(ModelError, match=message):
        load_checkpoint(folder, trust_code=trust_code)
    assert not trace.exists(), "the code ran"


def test_code_that_a_card_names_runs_only_where_the_user_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(file)
    with pytest.raises(ModelError, match="would run the Python code of") as caught:
        create(str(folder), num_classes=2, in_channels=1, image_size=(4, 4))
    assert f"{file}:make" in str(caught.value)
    assert "EDGEVISION_TRUST_FACTORY=1" in str(caught.value)
    monkeypatch.setenv("EDGEVISION_TRUST_FACTORY", "0")
    refused(folder, "only where you say so")
    monkeypatch.setenv("EDGEVISION_TRUST_FACTORY", "1")
    load_checkpoint(folder)


def opt_in(file: Path, folder: Path) -> None:
    load_checkpoint(folder, trust_code=True)


def name_it(file: Path, folder: Path) -> None:
    create(f"{file}:make", num_classes=2, in_channels=1, image_size=(4, 4))
    load_checkpoint(folder)


def trust_it(file: Path, folder: Path) -> None:
    trust_factory(f"{file}:make")
    load_checkpoint(folder)


@pytest.mark.parametrize("way", [opt_in, name_it, trust_it])
def test_ways_to_let_it_run(file: Path, way: Callable[[Path, Path], None]) -> None:
    way(file, build(file))
    assert file.with_name("trace").exists()


def test_trust_is_of_one_function_and_one_content(file: Path) -> None:
    folder = build(file)
    trust_factory(f"{file}:other")
    trust_factory("cifar-resnet8")
    trust_factory("nowhere/net.py:make")
    refused(folder, "only where you say so")
    file.write_text(SOURCE + "# changed")
    trust_factory(f"{file}:make")
    refused(folder, "was made with another", trust_code=True)
    file.unlink()
    refused(folder, "there is no file", trust_code=True)


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


def test_code_inside_the_checkpoint_or_without_a_hash_is_refused(file: Path) -> None:
    folder = build(file)
    inside = folder / "net.py"
    inside.write_text(SOURCE)
    change_card(folder, reference=f"{inside}:make")
    refused(folder, "came with the checkpoint", trust_code=True)
    assert not (folder / "trace").exists()
    change_card(folder, reference=f"{file}:make", lineage={})
    refused(folder, "has no sha256", trust_code=True)
    trust_it(file, folder)  # named by the user: a checkpoint of an older version still loads
