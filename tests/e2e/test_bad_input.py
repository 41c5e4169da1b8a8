"""Bad input, each kind with its message and its exit code, through the command line."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file

from edgevision.cli.app import run_command
from tests.e2e.small import RECIPE, write_recipe

Case = Callable[[Path, Path], list[str]]


def compress(data: Path, model: str = "cifar-resnet8", target: str = "cpu") -> list[str]:
    return ["compress", model, "--data", str(data), "--target", target, "--epochs", "1"]


def missing_folder(tmp: Path, images: Path) -> list[str]:
    return compress(tmp / "nowhere")


def empty_folder(tmp: Path, images: Path) -> list[str]:
    (tmp / "empty").mkdir()
    return compress(tmp / "empty")


def one_class(tmp: Path, images: Path) -> list[str]:
    for split in ("train", "validation"):
        first = sorted((images / split).iterdir())[0]
        shutil.copytree(first, tmp / "one" / split / first.name)
    return compress(tmp / "one")


def truncated_image(tmp: Path, images: Path) -> list[str]:
    shutil.copytree(images, tmp / "cut")
    victim = sorted((tmp / "cut" / "train").rglob("*.png"))[5]
    victim.write_bytes(victim.read_bytes()[:100])
    return compress(tmp / "cut")


def image_that_is_text(tmp: Path, images: Path) -> list[str]:
    shutil.copytree(images, tmp / "text")
    victim = sorted((tmp / "text" / "validation").rglob("*.png"))[0]
    victim.write_text("not an image")
    return compress(tmp / "text")


def checkpoint(folder: Path, labels: tuple[str, ...]) -> Path:
    from edgevision.models import create
    from edgevision.models.checkpoint import ModelCard, save_checkpoint
    from edgevision.preprocessing import Preprocessing

    module = create("cifar-resnet8", num_classes=len(labels), in_channels=3, image_size=(28, 28))
    card = ModelCard(
        reference="cifar-resnet8",
        task="classification",
        labels=labels,
        in_channels=3,
        preprocessing=Preprocessing(28, 28).to_dict(),
    )
    save_checkpoint(folder, module, card)
    return folder


def labels_of(images: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in (images / "train").iterdir()))


def labels_beyond_the_head(tmp: Path, images: Path) -> list[str]:
    folder = checkpoint(tmp / "narrow", labels_of(images)[:2])
    return compress(images, str(folder))


def nan_weights(tmp: Path, images: Path) -> list[str]:
    folder = checkpoint(tmp / "nan", labels_of(images))
    state = load_file(folder / "model.safetensors")
    name = next(n for n, t in state.items() if t.is_floating_point())
    state[name].view(-1)[0] = torch.nan
    save_file(state, folder / "model.safetensors")
    return compress(images, str(folder))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("boom"),))


def pickle_that_runs_code(tmp: Path, images: Path) -> list[str]:
    file = tmp / "weights.pt"
    file.write_bytes(pickle.dumps(Bomb()))
    return compress(images, str(file))


def onnx_with_data_outside(tmp: Path, images: Path) -> list[str]:
    (tmp / "secret.bin").write_bytes(bytes(64))
    (tmp / "model").mkdir()
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    file = tmp / "model" / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    return ["build-engine", str(file), "--target", "cpu", "--out", str(tmp / "out")]


def onnx_with_too_few_classes(tmp: Path, images: Path) -> list[str]:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp / "net.onnx")
    return ["compress", str(tmp / "net.onnx"), "--data", str(images), "--target", "cpu"]


def unknown_recipe_field(tmp: Path, images: Path) -> list[str]:
    return ["compress", "--recipe", str(write_recipe(tmp, images, quantise={"images": 3}))]


def unknown_training_field(tmp: Path, images: Path) -> list[str]:
    recipe = write_recipe(tmp, images, train={**RECIPE["train"], "learning_rat": 1})
    return ["compress", "--recipe", str(recipe)]


def wrong_target(tmp: Path, images: Path) -> list[str]:
    return compress(images, target="jetson-orin-nan")


def tensorrt_where_there_is_none(tmp: Path, images: Path) -> list[str]:
    from edgevision.backends import get_backend

    if get_backend("tensorrt").is_available().ok:
        pytest.skip("TensorRT is installed here")
    return compress(images, target="gpu")


def jetson_that_is_not_at_hand(tmp: Path, images: Path) -> list[str]:
    return compress(images, target="jetson-orin-nano")


def flipped_byte(tmp: Path, images: Path) -> list[str]:
    from edgevision.bundle import BundleWriter, Lineage
    from edgevision.preprocessing import Preprocessing
    from edgevision.types import TensorSpec

    node = helper.make_node("GlobalAveragePool", ["images"], ["logits"])
    shape: list[int | str] = ["batch", 3, 28, 28]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 1, 1])],
    )
    source = tmp / "model.onnx"
    onnx.save(helper.make_model(graph), source)
    with BundleWriter(
        tmp / "bundle",
        task="classification",
        labels=("a", "b", "c"),
        target="cpu",
        inputs=[TensorSpec("images", ("batch", 3, 28, 28))],
        outputs=[TensorSpec("logits", ("batch", 3, 1, 1))],
        preprocessing=Preprocessing(28, 28),
    ) as writer:
        writer.add_file(source, "model.fp32.onnx", kind="onnx", role="baseline")
        writer.finish(lineage=Lineage(model="m"))
    victim = tmp / "bundle" / "model.fp32.onnx"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    image = sorted(images.rglob("*.png"))[0]
    return ["run", str(tmp / "bundle"), "--source", str(image)]


COMPRESS = (sys.executable, "-m", "edgevision", "compress", "--recipe")

# case, exit code, what the message must hold
CASES: list[tuple[Case, int, list[str]]] = [
    (missing_folder, 3, ["nowhere"]),
    (empty_folder, 3, ["empty"]),
    (one_class, 3, ["class"]),
    (truncated_image, 3, [".png"]),
    (image_that_is_text, 3, [".png"]),
    (labels_beyond_the_head, 3, ["2 classes", "3"]),
    (nan_weights, 3, ["NaN"]),
    (pickle_that_runs_code, 3, ["pickle", "safetensors"]),
    (onnx_with_data_outside, 3, ["secret.bin"]),
    (onnx_with_too_few_classes, 3, ["net.onnx", "3 classes", "(N, 3)", "(N, 2)"]),
    (unknown_recipe_field, 3, ["quantise", "Did you mean 'quantize'"]),
    (unknown_training_field, 3, ["learning_rat", "Did you mean 'learning_rate'"]),
    (wrong_target, 2, ["jetson-orin-nan", "Did you mean 'jetson-orin-nano'"]),
    (tensorrt_where_there_is_none, 6, ["tensorrt", "--no-build"]),
    (jetson_that_is_not_at_hand, 6, ["Orin Nano", "--no-build"]),
    (flipped_byte, 3, ["model.fp32.onnx", "sha256"]),
]


@pytest.mark.parametrize(("case", "code", "words"), CASES, ids=[c[0].__name__ for c in CASES])
def test_bad_input_gets_a_message_and_a_code(
    case: Case,
    code: int,
    words: list[str],
    tmp_path: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = case(tmp_path, image_folder)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert run_command(arguments) == code
    told = capfd.readouterr().err
    assert "Traceback" not in told
    for word in words:
        assert word in told, told
    assert not (tmp_path / "boom").exists()
    left = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert not [p for p in left if p.suffix == ".tmp" or p.name == "manifest.json"]


def test_a_wrong_array_is_refused_with_expected_and_actual() -> None:
    from edgevision.errors import DataError
    from edgevision.preprocessing import Preprocessing

    with pytest.raises(DataError, match=r"uint8 .* got float64 of shape \(4, 4, 3\)"):
        Preprocessing(28, 28)(np.zeros((4, 4, 3)))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, image_folder: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here: not root")
    try:
        recipe = write_recipe(tmp_path, image_folder)
        done = subprocess.run(
            [*COMPRESS, str(recipe), "--out", str(disk / "out")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 3, done.stderr
        assert "No space is left" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (disk / "out" / "bundle").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_single_pixel_image_is_no_crash(tmp_path: Path, image_folder: Path) -> None:
    """Sizes far from the network's input are resized, not refused."""
    from edgevision.preprocessing import Preprocessing

    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "dot.png")
    pixels = np.asarray(Image.open(tmp_path / "dot.png"))
    assert Preprocessing(28, 28).geometry(pixels).shape == (28, 28, 3)
