from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevision.backends.base import ShapeRange
from edgevision.bundle import add_engine, open_bundle, write_zip
from edgevision.errors import BundleError, DataError, InputError, UsageError
from edgevision.runtime import load

Paint = Callable[..., np.ndarray[Any, Any]]
Make = Callable[..., Path]


def _labels(predictions: list[Any]) -> list[str]:
    return [prediction.label for prediction in predictions]


def test_every_kind_of_image_gives_the_same(bundle: Path, paint: Paint, tmp_path: Path) -> None:
    image = paint(1)
    Image.fromarray(image).save(tmp_path / "green.png")
    with load(bundle) as model:
        expected = model(image)
        assert expected.label == "green"
        assert model(tmp_path / "green.png") == expected
        assert model(str(tmp_path / "green.png")) == expected
        assert model(Image.fromarray(image)) == expected
        assert model([image, tmp_path / "green.png"]) == [expected, expected]
        assert model(np.stack([image, image])) == [expected, expected]
        assert model([]) == []


def test_pillow_images_follow_the_rules_for_files(bundle: Path, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    clear.save(tmp_path / "clear.png")
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    deep.save(tmp_path / "deep.png")
    with load(bundle) as model:
        assert model(clear) == model(tmp_path / "clear.png")
        assert model(deep) == model(tmp_path / "deep.png")


def test_zip_runs_like_the_folder(bundle: Path, paint: Paint, tmp_path: Path) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")
    with load(bundle) as one, load(packed) as two:
        inside = two.bundle.folder
        assert one(paint(2)) == two(paint(2))
    assert not inside.exists()


def test_a_prediction_under_way(make_bundle: Make, paint: Paint) -> None:
    with load(make_bundle("free")) as free, load(make_bundle("fixed", batch=4)) as fixed:
        for model in (free, fixed):
            first = model.predict_async(paint(0))
            with pytest.raises(UsageError, match="under way"):
                model(paint(1))
            expected = first.result()
            assert expected.label == "red"
            assert first.result() == expected
            assert model.predict_async(paint(2)).result() == model(paint(2))
            with pytest.raises(UsageError, match="takes one image, got 2"):
                model.predict_async(np.stack([paint(0), paint(1)]))


def test_forks_predict_beside_one_another(bundle: Path, paint: Paint, tmp_path: Path) -> None:
    first = load(write_zip(bundle, tmp_path / "b.zip"))
    expected = [first(paint(color)) for color in range(3)]
    forks = [first.fork() for _ in range(3)]
    first.close()
    with pytest.raises(UsageError, match="closed"):
        first.fork()

    def predict(color: int) -> list[Any]:
        with forks[color] as model:
            return [model(paint(color)) for _ in range(20)]

    with ThreadPoolExecutor(3) as pool:
        for color, found in enumerate(pool.map(predict, range(3))):
            assert found == [expected[color]] * 20


def test_more_images_than_a_call_takes(make_bundle: Make, paint: Paint) -> None:
    images = [paint(i % 3) for i in range(70)]
    wanted = ["red", "green", "blue"] * 23 + ["red"]
    with load(make_bundle("free")) as free, load(make_bundle("fixed", batch=4)) as fixed:
        assert _labels(free(images)) == wanted
        assert _labels(fixed(images)) == wanted
        assert fixed(images[1]).label == "green"
        outputs = fixed.infer_images(images[:6])["logits"]
        assert outputs.shape == (6, 3)
        np.testing.assert_allclose(outputs, free.infer_images(images[:6])["logits"], rtol=1e-6)


def test_an_engines_batch_is_kept_to(
    make_bundle: Make, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sidecar as backends write it; ONNX Runtime plays the engine's backend."""
    folder = make_bundle()
    facts = {"batch": asdict(ShapeRange(2, 2, 4))}
    entry = add_engine(folder, "a", folder / "model.int8.onnx", facts, backend="onnxruntime")
    with load(folder) as model:
        assert model.choice.path == entry.path
        infer, calls = model.runner.infer, []

        def counted(tensors: Any) -> Any:
            calls.append(len(tensors["input"]))
            return infer(tensors)

        monkeypatch.setattr(model.runner, "infer", counted)
        assert _labels(model([paint(i % 3) for i in range(9)])) == ["red", "green", "blue"] * 3
        assert model(paint(1)).label == "green"
    assert calls == [4, 4, 2, 2], "split at most 4, padded to at least 2"


def test_results_belong_to_the_caller(bundle: Path, paint: Paint) -> None:
    with load(bundle) as model:
        first = model.infer_images([paint(0)])["logits"]
        kept = first.copy()
        model.infer_images([paint(1)])
        np.testing.assert_array_equal(first, kept)


def test_raw_tensors(bundle: Path, paint: Paint) -> None:
    with load(bundle) as model:
        tensor = model.preprocess([paint(0), paint(1)])
        assert tensor.shape == (2, 3, 8, 8)
        assert model.infer({"input": tensor})["logits"].argmax(axis=1).tolist() == [0, 1]
        with pytest.raises(InputError, match=r"expected: input: float32\[batch, 3, 8, 8\], given"):
            model.infer({"input": tensor[:, :, :4]})


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        42,
        None,
    ],
)
def test_what_is_no_image(bundle: Path, bad: Any) -> None:
    with load(bundle) as model:
        with pytest.raises(DataError, match="An image must be"):
            model(bad)
        with pytest.raises(DataError, match="An image must be"):
            model([bad])


def test_files_that_cannot_be_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    with load(bundle) as model:
        for name in ("missing.png", "empty.png", "text.jpg"):
            with pytest.raises(DataError, match=name):
                model(tmp_path / name)
        with pytest.raises(DataError, match="is a folder"):
            model(tmp_path)


def test_a_folder_goes_on_after_a_bad_file(bundle: Path, paint: Paint, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "c.jpg", "sub/d.bmp"]):
        Image.fromarray(paint(number)).save(photos / name)
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:40])
    (photos / "notes.txt").write_text("not an image")
    (photos / ".hidden.png").write_bytes(b"")
    with load(bundle) as model:
        found = list(model.predict_folder(photos))
        assert [result.path.name for result in found] == ["a.png", "b.png", "c.jpg", "d.bmp"]
        assert found[1].prediction is None
        assert "b.png" in str(found[1].error)
        assert _labels([r.prediction for r in found if r.prediction]) == ["red", "green", "blue"]
        with pytest.raises(DataError, match="No folder"):
            next(model.predict_folder(tmp_path / "none"))
        (tmp_path / "nothing").mkdir()
        with pytest.raises(DataError, match="No image file"):
            next(model.predict_folder(tmp_path / "nothing"))


def test_closing(bundle: Path, paint: Paint) -> None:
    model = load(bundle)
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model(paint(0))
    with open_bundle(bundle) as opened, load(opened) as one, load(opened) as two:
        assert one(paint(0)) == two(paint(0))


def test_preprocessing_of_another_shape_is_refused(make_bundle: Make) -> None:
    folder = make_bundle()
    import json

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["preprocessing"]["height"] = 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"gives float32 images of shape \(3, 16, 8\)"):
        load(folder)
