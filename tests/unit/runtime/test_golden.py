from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.bundle import add_engine, open_bundle
from edgevision.errors import BundleError
from edgevision.pipeline.bench import bench_bundle
from edgevision.runtime.golden import check_golden

Make = Callable[..., Path]


def _replace(folder: Path, name: str, data: bytes) -> None:
    """Put ``data`` into the bundle as ``name`` and make the manifest agree with it."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["artifacts"]:
        if entry["path"] == name:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _npy(tmp_path: Path, array: np.ndarray[Any, Any]) -> bytes:
    np.save(tmp_path / "x.npy", array)
    return (tmp_path / "x.npy").read_bytes()


def test_every_artifact_that_runs_here_is_checked(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        result = check_golden(opened)
    assert result.ok
    assert result.preprocessed == 3
    assert {check.artifact for check in result.checks} == {"model.int8.onnx", "model.fp32.onnx"}
    assert all(check.max_abs <= check.bound for check in result.checks)


def test_fixed_batch(make_bundle: Make) -> None:
    with open_bundle(make_bundle(batch=2)) as opened:
        assert check_golden(opened).ok


def test_outputs_beyond_the_bound_are_found(bundle: Path, tmp_path: Path) -> None:
    name = "golden/outputs/model.fp32.onnx/0.npy"
    stored = np.load(bundle / name)
    bound = json.loads((bundle / "manifest.json").read_text())["golden"]["bounds"]
    near, far = stored.copy(), stored.copy()
    near[1, 2] += 0.5 * bound["model.fp32.onnx"]
    far[1, 2] += 2 * bound["model.fp32.onnx"]
    for array, ok in ((near, True), (far, False), (np.full_like(stored, np.nan), False)):
        _replace(bundle, name, _npy(tmp_path, array))
        with open_bundle(bundle) as opened:
            result = check_golden(opened)
        assert result.ok is ok
        assert [c.artifact for c in result.checks if not c.ok] == ["model.fp32.onnx"] * (not ok)


def test_one_bit_of_preprocessing_is_found(bundle: Path, tmp_path: Path) -> None:
    tensor = np.load(bundle / "golden/tensor.npy")
    tensor[1, 0, 3, 3] = np.nextafter(tensor[1, 0, 3, 3], np.float32(9))
    _replace(bundle, "golden/tensor.npy", _npy(tmp_path, tensor))
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match=r"001.png.*bit for bit"):
        check_golden(opened)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3, 8, 8), np.float64),
        np.zeros((2, 3, 8, 8), np.float32),
        np.zeros((3, 3, 8, 8), "U3"),
    ],
)
def test_tensors_of_another_form(bundle: Path, tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    _replace(bundle, "golden/tensor.npy", _npy(tmp_path, array))
    with open_bundle(bundle) as opened, pytest.raises(BundleError):
        check_golden(opened)


def test_a_pickle_in_an_npy_is_never_loaded(bundle: Path, tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (flag,))

    np.save(tmp_path / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    _replace(bundle, "golden/tensor.npy", (tmp_path / "x.npy").read_bytes())
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match=r"no readable .npy"):
        check_golden(opened)
    assert not flag.exists()


def _headed(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(3 * 3 * 64 * 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00\xff\xff{",
        _headed(b"{'descr': '<f4', 'shape': (3\n"),
        _headed(b"(" * 3000 + b"\n"),
        _headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 3, 8, 8)}\n"),
        _headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000,)}\n"),
    ],
)
def test_damaged_arrays(bundle: Path, data: bytes) -> None:
    _replace(bundle, "golden/tensor.npy", data)
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match=r"tensor.npy"):
        check_golden(opened)
    with pytest.raises(BundleError, match=r"tensor.npy"):
        bench_bundle(bundle, artifact="shipped")


def test_without_golden_vectors_nothing_is_proven(make_bundle: Make) -> None:
    with (
        open_bundle(make_bundle(golden=False)) as opened,
        pytest.raises(BundleError, match="no golden"),
    ):
        check_golden(opened)


def test_what_cannot_run_is_said(make_bundle: Make, tmp_path: Path) -> None:
    folder = make_bundle(scheme="tensorrt")
    (tmp_path / "model.engine").write_bytes(b"engine")
    add_engine(
        folder, "orin", tmp_path / "model.engine", {"compute_capabilities": ["87"]}, backend="none"
    )
    with open_bundle(folder) as opened:
        result = check_golden(opened)
    assert [check.artifact for check in result.checks] == ["model.fp32.onnx"]
    assert len(result.skipped) == 2
