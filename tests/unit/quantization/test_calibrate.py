from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import DataError, ModelError, UsageError
from edgevision.export import save_onnx
from edgevision.quantization import calibrate
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


@pytest.mark.parametrize("method", CALIBRATORS.names())
def test_batch_size_and_order_leave_no_trace(model, images, method):
    tables = set()
    for size in (1, 7, 32, 256):
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        tables.add(calibrate(model, batches, method=method).to_bytes())
        tables.add(calibrate(model, (b[::-1] for b in reversed(batches)), method=method).to_bytes())
    assert len(tables) == 1


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
    calibrate(model, batches(), progress=lambda count: seen.append((count, len(held))))
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


def test_activations_that_overflow_name_their_tensor(make_model, tmp_path, images):
    path = tmp_path / "float.onnx"
    w, v = np.full((4, 3, 3, 3), 1e38, np.float32), np.zeros((5, 4, 1, 1), np.float32)
    save_onnx(make_model(TEXT, w=w, v=v), path)
    with pytest.raises(ModelError, match="'r': NaN or infinite"):
        calibrate(path, [images])


def test_models_that_cannot_be_calibrated(make_model, tmp_path, images):
    path = tmp_path / "float.onnx"
    two = "(float[n,3,8,8] x, float[n,3,8,8] z) => (float[n,3,8,8] y) { y = Add (x, z) }"
    save_onnx(make_model(two), path)
    with pytest.raises(ModelError, match="one input"):
        calibrate(path, [images])
    save_onnx(make_model("(float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Relu (x) }"), path)
    with pytest.raises(ModelError, match="anything to quantize"):
        calibrate(path, [images])
    fixed = TEXT.replace("[n,", "[4,")
    arrays = {"w": np.ones((4, 3, 3, 3), np.float32), "v": np.ones((5, 4, 1, 1), np.float32)}
    save_onnx(make_model(fixed, **arrays), path)
    with pytest.raises(ModelError, match="fixed batch of 4"):
        calibrate(path, [images])
