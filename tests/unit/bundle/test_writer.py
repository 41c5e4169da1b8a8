from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgevision.bundle import BundleWriter, Lineage, open_bundle, write_zip
from edgevision.errors import BundleError, InputError, StorageError, UsageError
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec

Write = Callable[[Path, Path], Path]


def _writer(folder: Path) -> BundleWriter:
    return BundleWriter(
        folder,
        task="classification",
        labels=["a", "b"],
        target="cpu",
        inputs=[TensorSpec("input", ("batch", 3, 4, 4))],
        outputs=[TensorSpec("logits", ("batch", 2))],
        preprocessing=Preprocessing(4, 4),
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_was_written_is_read_back(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        assert manifest.labels == ("cat", "dog", "bird")
        assert manifest.preprocess().std == (0.25, 0.25, 0.25)
        assert [entry.path for entry in opened.by_role("shipped")] == ["model.int8.x86-vnni.onnx"]
        assert manifest.inputs[0].spec() == TensorSpec("input", ("batch", 3, 8, 8))
        assert manifest.golden is not None
        tensor = np.load(opened.path(manifest.golden.tensor), allow_pickle=False)
        assert tensor.shape == (2, 3, 8, 8)
        assert tensor.dtype == np.float32


def test_same_inputs_give_the_same_bytes(tmp_path: Path, write: Write) -> None:
    first = write(tmp_path / "one", tmp_path / "source")
    second = write(tmp_path / "two", tmp_path / "source")
    assert _files(first) == _files(second)
    zips = [write_zip(first, tmp_path / "one.zip"), write_zip(second, tmp_path / "two.zip")]
    assert zips[0].read_bytes() == zips[1].read_bytes()


def test_zip_and_folder_hold_the_same(bundle: Path, tmp_path: Path) -> None:
    with open_bundle(write_zip(bundle, tmp_path / "b.zip")) as opened:
        folder = opened.folder
        assert _files(folder) == _files(bundle)
    assert not folder.exists(), "the temporary folder stays behind"


def test_leaving_without_finish_keeps_nothing(tmp_path: Path) -> None:
    with _writer(tmp_path / "bundle") as writer:
        writer.add_bytes(b"x", "report.html", kind="report")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_bundle(bundle: Path, tmp_path: Path) -> None:
    before = _files(bundle)
    with _writer(bundle) as writer, pytest.raises(UsageError, match="artifacts"):
        writer.finish(lineage=Lineage(model="x"))
    assert _files(bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "source"]


def test_a_bundle_is_replaced_and_other_folders_are_not(bundle: Path, tmp_path: Path) -> None:
    with _writer(bundle) as writer:
        writer.add_bytes(b"x", "report.html", kind="report")
        writer.finish(lineage=Lineage(model="other"))
    with open_bundle(bundle) as opened:
        assert opened.manifest.lineage.model == "other"
    with pytest.raises(StorageError, match="is no bundle"):
        _writer(tmp_path / "source")
    assert (tmp_path / "source" / "a.onnx").is_file()


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../x", "a//b", "", ".hidden", "a\\b", "C:x", "a\0b", "ü.onnx", "a."]
)
def test_paths_that_could_leave_are_refused(tmp_path: Path, path: str) -> None:
    with _writer(tmp_path / "bundle") as writer, pytest.raises(BundleError, match="Path in a"):
        writer.add_bytes(b"x", path, kind="report")


def test_misuse_is_told(tmp_path: Path) -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    with _writer(tmp_path / "bundle") as writer:
        writer.add_bytes(b"x", "report.html", kind="report")
        with pytest.raises(UsageError, match="already"):
            writer.add_bytes(b"y", "report.html", kind="report")
        with pytest.raises(UsageError, match="already"):
            writer.add_bytes(b"y", "manifest.json", kind="report")
        with pytest.raises(InputError, match="No file at"):
            writer.add_file(tmp_path / "missing", "x.onnx", kind="onnx")
        with pytest.raises(UsageError, match="first"):
            writer.add_golden_outputs("x.onnx", {"logits": np.zeros((1, 2))})
        with pytest.raises(UsageError, match="at least one image"):
            writer.add_golden_inputs([])
        (tmp_path / "m").write_bytes(b"m")
        writer.add_file(tmp_path / "m", "x.onnx", kind="onnx")
        writer.add_golden_inputs([image, image])
        with pytest.raises(UsageError, match="2 rows"):
            writer.add_golden_outputs("x.onnx", {"logits": np.zeros((1, 2))})
        with pytest.raises(InputError, match="NaN"):
            writer.add_golden_outputs("x.onnx", {"logits": np.full((2, 2), np.nan)})


def test_bound_follows_precision(bundle: Path) -> None:
    golden = json.loads((bundle / "manifest.json").read_text())["golden"]
    stored = np.load(bundle / golden["outputs"]["model.fp32.onnx"]["logits"], allow_pickle=False)
    bound = golden["bounds"]["model.fp32.onnx"]
    assert bound == pytest.approx(1e-4 * np.abs(stored).max())
