"""``compress model.onnx``: a network of another exporter becomes a bundle, or is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from edgevision.bundle import open_bundle
from edgevision.cli.app import run_command
from edgevision.data import load_data
from edgevision.files import sha256_file
from edgevision.pipeline import CompressResult, compress, prepare
from edgevision.preprocessing import Preprocessing
from edgevision.recipe import load_recipe
from edgevision.runtime import load
from edgevision.runtime.inputs import read_image

RECIPE: dict[str, Any] = {
    "target": "cpu",
    "input": {"resize": "stretch", "mean": [0.5] * 3, "std": [0.5] * 3},
    "quantize": {"images": 32},
    "verify": {"max_accuracy_drop": 20, "seconds": 2, "threads": 1, "speedup": 0.01},
}


class Net(nn.Module):
    """Two branches that are added, BatchNorm, two outputs, probabilities instead of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16 * 49, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.first(x)
        y = nn.functional.max_pool2d(torch.relu(y + self.inner(y)), 2)
        features = y.reshape(y.shape[0], -1)
        return features, torch.softmax(self.head(features), dim=1)


def trained(images: Path) -> Net:
    data = load_data(str(images), image_size=(28, 28)).train
    how = Preprocessing(28, 28, mean=(0.5,) * 3, std=(0.5,) * 3)
    x = torch.from_numpy(how.normalize(np.stack([data.image(i) for i in range(len(data))])))
    target = torch.tensor([data.target(i) for i in range(len(data))])
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.nll_loss(torch.log(net(x)[1] + 1e-6), target).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def model(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript's exporter, opset 11, batch fixed to 1, nothing folded."""
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that exporter is deprecated, which is the point
        torch.onnx.export(
            trained(image_folder),
            (torch.zeros(1, 3, 28, 28),),
            str(path),
            dynamo=False,
            opset_version=11,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            output_names=["features", "probabilities"],
        )
    assert "BatchNormalization" in {node.op_type for node in onnx.load(path).graph.node}
    return path


def write(folder: Path, model: Path, data: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "model": str(model), "data": str(data), **changes}))
    return path


@pytest.fixture(scope="module")
def recipe(model: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("recipe"), model, image_folder)


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    return compress(load_recipe(recipe, {}), out=tmp_path_factory.mktemp("out"))


def test_the_bundle_is_as_ours(done: CompressResult, model: Path, image_folder: Path) -> None:
    assert done.verdict.exit_code in (0, 5)  # so small a network may be no faster in INT8
    with open_bundle(done.bundle) as bundle:
        manifest = bundle.manifest
        roles = {entry.path: entry.role for entry in manifest.runnable()}
        float_graph = onnx.load(bundle.path("model.fp32.onnx"))
    assert roles["model.fp32.onnx"] == "baseline"
    assert "shipped" in roles.values()
    assert manifest.lineage.digests["onnx:model.onnx"] == sha256_file(model)
    assert manifest.inputs[0].shape == ("batch", 3, 28, 28)
    assert [output.name for output in manifest.outputs] == ["logits"]
    operators = [node.op_type for node in float_graph.graph.node]
    assert operators.count("Conv") == 2
    assert "BatchNormalization" not in operators
    assert "Softmax" not in operators
    scores = [row["accuracy"] for row in done.figures["rows"]]
    assert min(scores) > 70, scores  # three classes, so guessing gives 33


def test_the_runtime_gives_the_probabilities_of_the_file(
    done: CompressResult, model: Path, image_folder: Path
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    files = sorted((image_folder / "validation").rglob("*.png"))[::7]
    with load(done.bundle, artifact="model.fp32.onnx") as network:
        for file in files:
            tensor = network.preprocess([read_image(file)])
            probabilities = session.run(None, {session.get_inputs()[0].name: tensor})[1][0]
            told = dict(network(file).top)
            want = dict(zip(network.labels, probabilities, strict=True))
            assert told == pytest.approx(want, abs=1e-5)


def test_run_again_every_stage_is_reused_until_the_file_changes(
    recipe: Path, done: CompressResult, model: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = compress(load_recipe(recipe, {}), out=done.bundle.parent)
    kept = {name for name, stage in result.stages.items() if stage.reused}
    assert {"baseline", "export", "quantize", "build"} <= kept
    changed = onnx.load(model)
    changed.graph.initializer[0].raw_data = bytes(len(changed.graph.initializer[0].raw_data))
    onnx.save(changed, tmp_path / "model.onnx")
    other = write(tmp_path, tmp_path / "model.onnx", image_folder)
    keys = [prepare(load_recipe(r, {})).foreign.digest() for r in (recipe, other)]
    assert keys[0] != keys[1]


def test_the_plan_says_what_was_taken(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compress", "--recipe", str(recipe), "--dry-run"]) == 0
    told = capfd.readouterr().out
    plan = json.loads(told[told.index("{") :])
    assert plan["train"] is None
    assert plan["input"]["height"] == 28
    notes = " ".join(plan["adopted"])
    for words in ("opset 11 raised to 13", "left out: 'features'", "Softmax", "rgb 28x28"):
        assert words in notes


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--prune-macs", "0.5"], 2, ["cannot be pruned", "net.py:factory"]),
        (["--epochs", "3"], 2, ["cannot be trained", "epochs"]),
    ],
)
def test_pruning_and_training_are_refused(
    recipe: Path,
    arguments: list[str],
    code: int,
    words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["compress", "--recipe", str(recipe), *arguments]) == code
    told = capfd.readouterr().err
    assert "Traceback" not in told
    for word in words:
        assert word in told


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "missing"])
def test_broken_files_get_one_message(
    damage: str, model: Path, image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim.onnx"
    content = model.read_bytes()
    if damage != "missing":
        victim.write_bytes(
            {"empty": b"", "text": b"# a network\n" * 9, "truncated": content[: len(content) // 2]}[
                damage
            ]
        )
    assert run_command(["compress", str(victim), "--data", str(image_folder)]) == 3
    told = capfd.readouterr().err
    assert "victim.onnx" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("section", "words"),
    [({"size": 32}, ["28x28", "32"]), ({"color": "gray"}, ["3 channel", "gray"])],
)
def test_an_input_other_than_the_graph_s_is_refused(
    section: dict[str, Any],
    words: list[str],
    model: Path,
    image_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = write(tmp_path, model, image_folder, input=section)
    assert run_command(["compress", "--recipe", str(recipe)]) == 3
    told = capfd.readouterr().err
    for word in words:
        assert word in told
