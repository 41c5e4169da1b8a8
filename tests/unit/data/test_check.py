"""What ``data check`` finds, and that it finds nothing in good data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevision.cli.app import run_command
from edgevision.data.arrays import ArrayDataset
from edgevision.data.base import DataSplits
from edgevision.data.check import DataReport, check_data, require_targets
from edgevision.data.loading import open_data
from edgevision.errors import DataError
from edgevision.preprocessing import Preprocessing
from edgevision.tasks import get_task

TASK = get_task("classification")


def save(path: Path, seed: int, size: tuple[int, int] = (30, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good data: two splits, two classes, four images each."""
    for number, split in enumerate(("train", "val")):
        for index in range(8):
            save(
                tmp_path / "photos" / split / "ab"[index % 2] / f"{index}.png", 10 * number + index
            )
    return tmp_path / "photos"


def check(root: Path) -> DataReport:
    return check_data(open_data(str(root), image_size=(24, 24)), TASK)


def kinds(report: DataReport) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.examples for finding in report.findings}


def test_good_data_has_no_findings(root: Path) -> None:
    report = check(root)
    assert report.findings == ()
    assert report.counts == {"a": (4, 4), "b": (4, 4)}


def test_unreadable_images(root: Path) -> None:
    whole = (root / "train" / "a" / "0.png").read_bytes()
    (root / "train" / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "val" / "b" / "1.png").write_bytes(b"")
    report = check(root)
    examples = kinds(report)["unreadable"]
    assert len(examples) == 2
    assert "train/a/0.png: the image is damaged or truncated" in examples[0]
    assert "val/b/1.png: the file is empty" in examples[1]
    assert [finding.kind for finding in report.errors] == ["unreadable"]


def test_duplicates_within_and_across_and_under_two_labels(root: Path) -> None:
    save(root / "train" / "a" / "again.bmp", 0)  # another format, the same pixels
    save(root / "val" / "a" / "leak.png", 2)
    save(root / "val" / "a" / "other.png", 11)  # is class b elsewhere
    report = check(root)
    assert kinds(report) == {
        "conflict": ("val/a/other.png = val/b/1.png",),
        "leak": ("train/a/2.png = val/a/leak.png",),
        "duplicate": (
            "train/a/0.png = train/a/again.bmp",
            "val/a/other.png = val/b/1.png",
        ),
    }
    assert {finding.kind for finding in report.errors} == {"conflict", "leak"}


def test_empty_small_and_long_images(root: Path) -> None:
    Image.new("RGB", (40, 40), "navy").save(root / "train" / "a" / "blue.png")
    save(root / "train" / "a" / "small.png", 50, (23, 40))
    save(root / "train" / "a" / "long.png", 51, (30, 121))
    report = check(root)
    assert kinds(report) == {
        "empty": ("train/a/blue.png",),
        "small": ("train/a/small.png (23x40)",),
        "aspect": ("train/a/long.png (30x121)",),
    }
    assert report.errors == ()


def test_uneven_classes(root: Path) -> None:
    for index in range(9):
        save(root / "train" / "a" / f"more{index}.png", 100 + index)
    report = check(root)
    assert "4 to 13 images a class" in report.findings[0].message
    assert report.errors == ()


def test_single_class_and_missing_classes(root: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
    labels = ("a", "b", "c")
    splits = DataSplits(
        "made",
        ArrayDataset("made/train", images[:3], np.array([1, 1, 1]), labels),
        ArrayDataset("made/validation", images[3:], np.array([0, 1, 1]), labels),
        Preprocessing(height=24, width=24),
    )
    report = check_data(splits, TASK)
    assert [(finding.kind, finding.examples) for finding in report.errors] == [
        ("single-class", ()),
        ("missing-class", ("a", "c")),
        ("missing-class", ("c",)),
    ]
    assert "only 'b'" in report.errors[0].message


def test_labels_beyond_the_head() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    labels = ("a", "b")
    train = ArrayDataset("made/train", images[:2], np.array([0, 1]), labels)
    wrong = ArrayDataset("made/validation", images[2:], np.array([0, 2]), labels)
    splits = DataSplits("made", train, wrong, Preprocessing(height=24, width=24))
    report = check_data(splits, TASK)
    assert kinds(report)["label"][0].startswith("made/validation[1]: ")
    require_targets(train, TASK, 2)
    with pytest.raises(DataError, match=r"made/validation\[1\]: .*2"):
        require_targets(wrong, TASK, 2)


def test_progress_counts_every_image(root: Path) -> None:
    told: list[tuple[int, int]] = []
    check_data(open_data(str(root)), TASK, progress=lambda *step: told.append(step))
    assert told == [(n, 16) for n in range(1, 17)]


def test_the_report_names_a_few_and_counts_the_rest(root: Path) -> None:
    for index in range(8):
        Image.new("RGB", (40, 40), (index, 0, 0)).save(root / "train" / "a" / f"e{index}.png")
    text = str(check(root).findings[0])
    assert text.startswith("Images of one colour (8): train/a/e0.png")
    assert text.endswith(" and 3 more")


# ---- the commands


def test_command_check(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    assert "a " in out
    assert "smaller than the network input of 224x224" in out
    save(root / "val" / "a" / "leak.png", 2)
    report = root.parent / "report.json"
    assert run_command(["data", "check", str(root), "--json", str(report)]) == 3
    captured = capsys.readouterr()
    assert "The same image in training and validation (1): train/a/2.png" in captured.out
    assert "1 kind(s) of error" in captured.err
    values = json.loads(report.read_text("utf-8"))
    assert values["counts"] == {"a": [4, 5], "b": [4, 4]}
    assert values["findings"][0]["kind"] == "leak"
    assert values["findings"][0]["severity"] == "error"


def test_command_check_of_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "check", "./nowhere"]) == 3
    assert "There is no folder 'nowhere'" in capsys.readouterr().err
    assert run_command(["data", "check", "fashion-mnist-mini", "--task", "clasification"]) == 2


def test_command_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "list", "--cache", str(tmp_path)]) == 0
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    here = {cells[1].strip(): cells[3].strip() for cells in lines}
    assert here["fashion-mnist-mini"] == "yes"
    assert here["cifar10"] == here["fashion-mnist"] == "no"


def test_command_fetch_of_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "fetch", "fashion-mnist-mini"]) == 0
    out = capsys.readouterr().out
    assert "is here already" in out
    assert "12000 training and 3000 validation" in out
    assert run_command(["data", "fetch", "cifar-10"]) == 2
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err


def test_command_calibration(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "set.json"
    command = ["data", "calibration", str(root), "--count", "6", "--seed", "1", "--out", str(out)]
    assert run_command(command) == 0
    first = out.read_bytes()
    values = json.loads(first)
    assert values["count"] == len(values["images"]) == 6
    assert values["images"][0]["name"].startswith("train/")
    assert run_command(command) == 0
    assert out.read_bytes() == first
    capsys.readouterr()
    assert run_command([*command[:3], "--count", "99", "--out", str(out)]) == 3
    assert "expected 99 images for calibration, got 8" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert run_command([*command[:3], "--out", str(root)]) == 2
