from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgevision.errors import DataError, ModelError, UsageError
from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import CalibrationTable, calibrate
from edgevision.quantization.calibrate import recalibrated
from edgevision.quantization.calibrators import CALIBRATORS

TEXT = (
    "(float[n,3,8,8] x) => (float[n,5,1,1] y) "
    "{ a = Conv (x, w)  r = Relu (a)  g = GlobalAveragePool (r)  y = Conv (g, v) }"
)


@pytest.fixture
def model(make_model, random, tmp_path):
    path = tmp_path / "float.onnx"
    arrays = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": random.normal(size=(5, 4, 1, 1)).astype(np.float32),
    }
    save_onnx(make_model(TEXT, **arrays), path)
    return path


@pytest.fixture
def images(random):
    return random.normal(size=(50, 3, 8, 8)).astype(np.float32)


def batched(images, size):
    return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize("method", CALIBRATORS.names())
def test_batch_size_order_and_threads_leave_no_trace(model, images, method, random):
    tables = set()
    for size in (1, 7, 32, 256):
        shuffled = random.permutation(images)
        for threads in (1, 4):
            table = calibrate(model, batched(shuffled, size), method=method, threads=threads)
            tables.add(table.to_bytes())
    assert len(tables) == 1


def test_processes_leave_no_trace(model, images, random):
    here = calibrate(model, batched(images, 7), method="entropy")
    shuffled = random.permutation(images)
    there = calibrate(model, batched(shuffled, 32), method="entropy", processes=4)
    assert there.to_bytes() == here.to_bytes()


@pytest.mark.parametrize("method", ["entropy", "minmax", "mse", "percentile"])
@pytest.mark.parametrize("first", ["mse", "percentile"])
def test_another_calibrator_needs_no_images_again(model, images, tmp_path, first, method):
    calibrate(model, [images], method=first).save(tmp_path / "table.json")
    kept = CalibrationTable.load(tmp_path / "table.json")
    again = recalibrated(kept, load_onnx(model), method)
    want = calibrate(model, [images], method=method)
    assert (again.method, again.settings, again.images) == (method, want.settings, 50)
    for name, seen in want.tensors.items():
        assert replace(again.tensors[name], histogram=None) == replace(seen, histogram=None)


@pytest.mark.parametrize(("first", "method"), [("minmax", "mse"), ("mse", "average")])
def test_what_was_not_kept_cannot_be_told_anew(model, images, first, method):
    assert recalibrated(calibrate(model, [images], method=first), load_onnx(model), method) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", CALIBRATORS.names())
def test_processes_leave_no_trace_with_any_method(model, images, random, method):
    tables = {calibrate(model, [images], method=method).to_bytes()}
    for size in (1, 7, 32, 256):
        shuffled = batched(random.permutation(images), size)
        tables.add(calibrate(model, shuffled, method=method, processes=4).to_bytes())
    assert len(tables) == 1


def test_sums_do_not_depend_on_how_a_product_is_split(make_model, tmp_path, random):
    """A product wide enough for ONNX Runtime to split over its own threads, did it have any."""
    path = tmp_path / "float.onnx"
    text = (
        "(float[n,700] x) => (float[n,5] z) { y = MatMul (x, w)  r = Relu (y)  z = MatMul (r, v) }"
    )
    arrays = {"w": random.normal(size=(700, 1000)), "v": random.normal(size=(1000, 5))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    save_onnx(make_model(text, **arrays), path)
    images = random.normal(size=(20, 700)).astype(np.float32)
    tables = [
        calibrate(path, batched(images, size), method="entropy", threads=threads).to_bytes()
        for size, threads in ((1, 1), (20, 4))
    ]
    assert tables[0] == tables[1]


def test_ranges_are_those_of_the_network(model, images):
    import onnx
    import onnxruntime

    table = calibrate(model, [images], method="minmax", calibration_digest="abc")
    probe = onnx.load(model)
    probe.graph.output.append(onnx.ValueInfoProto(name="r"))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    relu = session.run(["r"], {"x": images})[0]
    found = table.tensors["r"]
    assert found.minimum == relu.min() == 0
    np.testing.assert_allclose(found.maximum, relu.max(), rtol=1e-6)
    assert found.count == relu.size
    assert (table.tensors["x"].minimum, table.tensors["x"].maximum) == (images.min(), images.max())
    assert (table.images, table.calibration_digest) == (50, "abc")
    assert "a" not in table.tensors  # fused into the Relu: no scheme quantizes it


def test_images_come_one_batch_at_a_time(model, images):
    held = []

    def batches():
        for start in range(0, 50, 10):
            held.append(start)
            yield images[start : start + 10]

    seen = []
    calibrate(model, batches(), threads=2, progress=lambda n: seen.append((n, len(held))))
    assert seen[0] == (1, 1)
    assert seen[-1] == (50, 5)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((2, 3, 9, 8), np.float32), r"\(N, 3, 8, 8\), got \(2, 3, 9, 8\)"),
        (np.zeros((3, 8, 8), np.float32), "got"),
        (np.zeros((2, 3, 8, 8)), "float64"),
        ([[1.0]], "list"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "NaN"),
    ],
)
def test_bad_images_are_refused(model, batch, message):
    with pytest.raises(DataError, match=message):
        calibrate(model, [batch])


def test_no_images_unknown_method_and_no_threads(model, images):
    with pytest.raises(DataError, match="No calibration images"):
        calibrate(model, [])
    with pytest.raises(UsageError, match="percentile"):
        calibrate(model, [images], method="percentil")
    with pytest.raises(UsageError, match="threads"):
        calibrate(model, [images], threads=0)
    with pytest.raises(UsageError, match="processes must be at least 1, got 0"):
        calibrate(model, [images], processes=0)
    with pytest.raises(UsageError, match="each has one thread"):
        calibrate(model, [images], processes=2, threads=2)


def test_activations_that_overflow_name_their_tensor(make_model, tmp_path, images):
    path = tmp_path / "float.onnx"
    w, v = np.full((4, 3, 3, 3), 1e38, np.float32), np.zeros((5, 4, 1, 1), np.float32)
    save_onnx(make_model(TEXT, w=w, v=v), path)
    with pytest.raises(ModelError, match="'r': NaN or infinite"):
        calibrate(path, [images])


TWO = (
    "(float[n,3,h,w] x, int64[n,2] ids) => (float[n,4,1,1] y) { a = Conv (x, w1)  r = Relu (a)"
    "  e = Gather <axis=0> (table, ids)  s = ReduceMean <keepdims=1> (e, axes)"
    "  g = GlobalAveragePool (r)  y = Mul (g, s) }"
)


@pytest.fixture
def two_inputs(make_model, random, tmp_path):
    path = tmp_path / "two.onnx"
    arrays = {
        "w1": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "table": random.normal(size=(10, 6)).astype(np.float32),
        "axes": np.array([0, 1, 2], np.int64),
    }
    save_onnx(make_model(TWO, **arrays), path)
    return path


def test_a_model_of_which_only_the_input_is_quantized(make_model, tmp_path, random):
    path = tmp_path / "float.onnx"
    text = "(float[n,7] x) => (float[n,5] y) { y = MatMul (x, w) }"
    save_onnx(make_model(text, w=random.normal(size=(7, 5)).astype(np.float32)), path)
    images = random.normal(size=(20, 7)).astype(np.float32)
    table = calibrate(path, [images], method="minmax")
    assert table.tensors["x"].maximum == images.max()


def test_several_inputs_go_in_by_name(two_inputs, images, random):
    ids = random.integers(0, 10, (50, 2))
    whole = calibrate(two_inputs, [{"x": images, "ids": ids}])
    assert {"x", "r"} <= set(whole.tensors)
    assert "ids" not in whole.tensors  # integers are fed, not observed
    assert whole.images == 50
    parts = [{"ids": ids[i : i + 9], "x": images[i : i + 9]} for i in range(0, 50, 9)]
    assert calibrate(two_inputs, parts).to_bytes() == whole.to_bytes()


def test_sizes_may_differ_where_axes_are_dynamic(two_inputs, random):
    sizes = [(8, 8), (5, 11), (16, 4), (8, 8), (3, 3)]
    parts = [
        {
            "x": random.normal(size=(2, 3, *size)).astype(np.float32),
            "ids": random.integers(0, 10, (2, 2)),
        }
        for size in sizes
    ]
    table = calibrate(two_inputs, parts, method="mse")
    assert table.images == 10
    assert table.tensors["x"].count == sum(2 * 3 * h * w for h, w in sizes)
    assert calibrate(two_inputs, parts[::-1], method="mse").to_bytes() == table.to_bytes()


def test_several_inputs_that_do_not_fit(two_inputs, images):
    ids = np.zeros((50, 2), np.int64)
    for batch, message in (
        (images, r"has the inputs \['x', 'ids'\]; expected dictionaries .* got ndarray"),
        ({"x": images}, r"must have the inputs \['ids', 'x'\], got \['x'\]"),
        ({"x": images, "ids": ids[:49]}, "as many of each input, got {'x': 50, 'ids': 49}"),
        ({"x": images, "ids": ids.astype(np.int32)}, "'ids' must be a int64 array, got int32"),
    ):
        with pytest.raises(DataError, match=message):
            calibrate(two_inputs, [batch])
    with pytest.raises(ModelError, match="ONNX Runtime failed"):
        calibrate(two_inputs, [{"x": images, "ids": ids + 99}])


def test_models_that_cannot_be_calibrated(make_model, tmp_path, images):
    path = tmp_path / "float.onnx"
    save_onnx(make_model("(float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Relu (x) }"), path)
    with pytest.raises(ModelError, match="anything to quantize"):
        calibrate(path, [images])
    fixed = TEXT.replace("[n,", "[4,")
    arrays = {"w": np.ones((4, 3, 3, 3), np.float32), "v": np.ones((5, 4, 1, 1), np.float32)}
    save_onnx(make_model(fixed, **arrays), path)
    with pytest.raises(ModelError, match="fixed batch of 4"):
        calibrate(path, [images])
