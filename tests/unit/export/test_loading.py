from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgevision.errors import ModelError, StorageError
from edgevision.export import load_onnx, save_onnx
from edgevision.export.loading import onnx_files

TEXT = "(float[n,4] x) => (float[n,4] y) { y = Mul (x, w) }"
WEIGHT = np.arange(4, dtype=np.float32)


@pytest.fixture
def external(make_model, tmp_path):
    """A model whose weight lies in ``w.bin``; call it with changes to the external data."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())

    def make(**fields):
        model = make_model(TEXT, w=WEIGHT)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "w.bin", **fields}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make


def test_saves_the_same_bytes_and_reads_them_back(make_model, tmp_path):
    model = make_model(TEXT, w=WEIGHT)
    save_onnx(model, tmp_path / "a.onnx")
    save_onnx(load_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_external_data_beside_the_model_is_taken_in(external):
    model = load_onnx(external(offset=0, length=16))
    assert model.graph.initializer[0].data_location == TensorProto.DEFAULT
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)


def test_the_hash_of_a_model_covers_its_external_data(external):
    path = external(offset=0, length=16)
    before = onnx_files(path)
    assert list(before) == ["model.onnx", "w.bin"]
    (path.parent / "w.bin").write_bytes(WEIGHT[::-1].tobytes())
    after = onnx_files(path)
    assert before["model.onnx"] == after["model.onnx"]
    assert before["w.bin"] != after["w.bin"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"location": "../secret.bin"}, "own folder"),
        ({"location": "a/../../secret.bin"}, "own folder"),
        ({"location": "/etc/passwd"}, "own folder"),
        ({"location": "..\\secret.bin"}, "own folder"),
        ({"location": "C:\\secret.bin"}, "own folder"),
        ({"location": ""}, "own folder"),
        ({"location": "none.bin"}, "no file"),
        ({"offset": 8}, "expected 16 bytes"),
        ({"offset": 8, "length": 16}, "inside the 16 bytes"),
        ({"offset": -4, "length": 16}, "inside the 16 bytes"),
        ({"length": 12}, "expected 16 bytes"),
        ({"length": "many"}, "whole numbers"),
    ],
)
def test_hostile_external_data_is_refused(external, fields, message):
    with pytest.raises(ModelError, match=message):
        load_onnx(external(**fields))


@pytest.mark.parametrize("how", ["file", "folder"])
def test_external_data_through_a_link_is_refused(external, tmp_path, how):
    folder = tmp_path / "model"
    if how == "file":
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
        location = "link.bin"
    else:
        (folder / "sub").symlink_to(tmp_path)
        location = "sub/secret.bin"
    with pytest.raises(ModelError, match="link"):
        load_onnx(external(location=location))


def test_external_data_that_is_a_folder_is_refused(external, tmp_path):
    (tmp_path / "model" / "sub").mkdir()
    with pytest.raises(ModelError, match="regular file"):
        load_onnx(external(location="sub"))


def test_every_truncation_is_refused(make_model, tmp_path):
    whole = make_model(TEXT, w=WEIGHT).SerializeToString()
    path = tmp_path / "model.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            load_onnx(path)


@pytest.mark.parametrize("content", [b"not onnx at all", b"\x89PNG\r\n\x1a\n", b"{}", b"\x00" * 64])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_onnx(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx"):
        load_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("opset", [5, 99])
def test_opsets_out_of_range_are_refused(make_model, tmp_path, opset):
    model = make_model(TEXT, w=WEIGHT)
    model.opset_import[0].version = opset
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"opset 7 to .*has {opset}"):
        load_onnx(path)


def test_invalid_graph_is_refused(make_model, tmp_path):
    model = make_model(TEXT, w=WEIGHT)
    model.graph.node[0].input[0] = "nowhere"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="nowhere"):
        load_onnx(path)


def test_writing_where_nothing_can_be_written(make_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save_onnx(make_model(TEXT, w=WEIGHT), tmp_path / "file" / "model.onnx")
