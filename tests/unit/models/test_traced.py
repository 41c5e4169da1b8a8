"""Networks that load without their class: the same bits, trained on, and hostile documents."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from edgevision.errors import ModelError
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from edgevision.models.traced import TRACED, TracedNetwork, read_traced, trace_network
from edgevision.preprocessing import Preprocessing
from edgevision.pruning import PruneConfig, prune, structure_of

SHAPE = (1, 3, 16, 16)
SOURCE = """
import torch
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.body = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.drop = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(16, classes)
    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.nn.functional.silu(self.body(x))
        return self.head(self.drop(x.mean((2, 3))))
def make(num_classes):
    return Net(num_classes)
"""


def traced(module: nn.Module, shape: tuple[int, ...] = SHAPE) -> TracedNetwork:
    document = json.loads(json.dumps(trace_network(module, shape)))
    network = TracedNetwork(document)
    network.load_state_dict(module.state_dict())
    return network.eval()


class Own(nn.Module):
    """Batch norm, dropout, a constant that is not stored, shapes from the batch, an odd output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.relu(self.norm(self.conv(images)), inplace=True)
        x = x.reshape(x.shape[0], 8, -1).mean(2).clamp(max=float("inf")) * self.scale
        return self.head(self.drop(x))


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3_small_050",
        "vit_tiny_patch16_224",
        "repvgg_a0",
        pytest.param("levit_128s", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_the_same_bits_for_any_batch(name: str) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=4).eval()
    shape = (1, 3, 224, 224) if name in ("vit_tiny_patch16_224", "levit_128s") else (1, 3, 64, 64)
    network = traced(module, shape)
    assert dict(network.named_parameters()).keys() == dict(module.named_parameters()).keys()
    for batch in (1, 3):
        images = torch.randn(batch, *shape[1:])
        with torch.no_grad():
            assert torch.equal(network(images), module(images))


def test_it_trains_as_the_class_does() -> None:
    torch.manual_seed(0)
    module = Own()
    module.drop.p = 0.0
    network = traced(module).train()
    module.train()
    images = torch.randn(6, 3, 16, 16)
    for net in (module, network):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for (name, mine), theirs in zip(
        module.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert name.endswith("num_batches_tracked") or torch.equal(mine, theirs), name
    assert torch.equal(module.eval()(images), network.eval()(images))


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    network = traced(Own())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(images), network(images))
    network.train()
    assert not torch.equal(network(images), network(images))
    twin = copy.deepcopy(network).eval()
    assert torch.equal(twin(images), network.eval()(images))
    assert {type(layer) for layer in network.children()} >= {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


@pytest.fixture
def pruned(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A pruned network of a user's file, its checkpoint and the file gone."""
    file = tmp_path / "net.py"
    file.write_text(SOURCE)
    reference = f"{file}:make"
    torch.manual_seed(1)
    original = create(reference, num_classes=3, in_channels=3, image_size=(16, 16))
    result = prune(
        original,
        example_shape=SHAPE,
        config=PruneConfig(pruning_ratio=0.5),
        ignored=[original.get_submodule("head")],
    )
    card = ModelCard(
        reference=reference,
        task="classification",
        labels=("a", "b", "c"),
        in_channels=3,
        preprocessing=Preprocessing(16, 16, mean=(0, 0, 0), std=(1, 1, 1)).to_dict(),
        structure=structure_of(result.module, original),
    )
    folder = tmp_path / "pruned"
    document = trace_network(result.module, SHAPE)
    save_checkpoint(folder, result.module, card, traced=document)
    file.unlink()
    return folder, result.module.eval()


def test_a_new_process_without_the_class_gets_the_same_bits_and_trains_on(
    pruned: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, module = pruned
    images = torch.randn(5, 3, 16, 16)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import torch, sys\n"
        "from pathlib import Path\n"
        "from edgevision.models.checkpoint import load_checkpoint, save_checkpoint\n"
        f"folder, place = Path({str(folder)!r}), Path({str(tmp_path)!r})\n"
        "module, card = load_checkpoint(folder)\n"
        "images = torch.load(place / 'images.pt')\n"
        "with torch.no_grad(): torch.save(module(images), place / 'logits.pt')\n"
        "optimizer = torch.optim.SGD(module.train().parameters(), 0.1)\n"
        "loss = torch.nn.functional.cross_entropy\n"
        "targets = torch.tensor([0, 1, 2, 0, 1])\n"
        "first = loss(module(images), targets)\n"
        "for _ in range(20):\n"
        "    optimizer.zero_grad(); loss(module(images), targets).backward(); optimizer.step()\n"
        "assert loss(module(images), targets) < first\n"
        "save_checkpoint(place / 'again', module, card)\n"
        "again, _ = load_checkpoint(place / 'again')\n"
        "assert torch.equal(again(images), module.eval()(images))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), module(images))


def test_without_the_traced_network_the_class_is_missed(pruned: tuple[Path, nn.Module]) -> None:
    folder, _ = pruned
    (folder / TRACED).unlink()
    with pytest.raises(ModelError, match="there is no file"):
        load_checkpoint(folder)


def test_statistics_are_measured_anew_as_with_the_class() -> None:
    torch.manual_seed(0)
    module = Own()
    network = traced(module)
    images = torch.randn(6, 3, 16, 16)
    for net in (module, network):
        net.eval()
        norm = net.get_submodule("norm")
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
        net(images)
        net(images + 1)
        norm.eval()
    assert torch.equal(module.norm.running_mean, network.norm.running_mean)
    assert torch.equal(module(images), network(images))
    half = copy.deepcopy(network.to(torch.bfloat16))
    assert next(half.parameters()).dtype == torch.bfloat16


def test_constants_keep_their_infinities() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)
            mask = torch.full((4,), -float("inf"))
            mask[:2] = 0.0
            self.register_buffer("mask", mask, persistent=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.head((images.mean((2, 3)) + self.mask).softmax(1))

    module = Masked().eval()
    network = traced(module, (1, 4, 2, 2))
    images = torch.randn(3, 4, 2, 2)
    assert torch.equal(network(images), module(images))


def test_another_network_in_the_same_folder_leaves_no_traced_one(
    pruned: tuple[Path, nn.Module],
) -> None:
    folder, module = pruned
    _, card = load_checkpoint(folder)
    save_checkpoint(folder, module, card)
    assert not (folder / TRACED).exists()


def test_a_forward_that_cannot_be_followed_is_told() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if bool(images.sum() > 0) else -images

    with pytest.raises(ModelError, match="cannot be traced"):
        trace_network(Branching(), SHAPE)


def _changed(document: dict[str, Any], change: str) -> Any:
    nodes = document["nodes"]
    call = next(node for node in nodes if node["op"].startswith("aten.conv2d"))
    if change == "file":
        call |= {"op": "aten.from_file.default", "args": ["/etc/passwd"], "kwargs": {}}
    elif change == "code":
        call["op"] = "operator.__import__"
    elif change == "space":
        call["op"] = "prim.device.default"
    elif change == "node":
        call["args"][0] = {"node": "nobody"}
    elif change == "type":
        call["args"][1] = {"dtype": "load"}
    elif change == "version":
        document["version"] = 99
    elif change == "keys":
        del document["nodes"]
    elif change == "path":
        document["tensors"]["a..b"] = ["parameter", "float32", [2]]
    elif change == "list":
        return [document]
    elif change == "keyword":  # what would be source code, were the graph written out as such
        call["kwargs"] = {"a = exec('raise SystemExit'), b": None}
    elif change == "source":
        tensors = document["tensors"]
        tensors['c"), exec("raise SystemExit") #'] = tensors.pop("stem.weight")
    elif change in OPERATORS:
        call["op"] = change
    return document


OPERATORS = [
    "aten._sparse_coo_tensor_unsafe.default",
    "aten.save.default",
    "aten.set_.source_Storage",
    "aten.resize_.default",
    "aten.as_strided.default",
    "aten.empty.memory_format",
    "aten.index_put_.default",
]


@pytest.mark.parametrize(
    "change",
    [
        "file",
        "code",
        "space",
        "node",
        "type",
        "version",
        "keys",
        "path",
        "list",
        "keyword",
        "source",
        *OPERATORS,
    ],
)
def test_hostile_and_damaged_documents_are_refused(
    pruned: tuple[Path, nn.Module], change: str
) -> None:
    folder, _ = pruned
    document = json.loads((folder / TRACED).read_bytes())
    (folder / TRACED).write_text(json.dumps(_changed(document, change)))
    with pytest.raises(ModelError):
        load_checkpoint(folder)


def test_a_truncated_document_is_refused(pruned: tuple[Path, nn.Module]) -> None:
    folder, _ = pruned
    data = (folder / TRACED).read_bytes()
    (folder / TRACED).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged"):
        read_traced(folder)
