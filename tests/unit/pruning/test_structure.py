"""Widths as JSON, back in a new process, and structures that must be refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from edgevision.preprocessing import Preprocessing
from edgevision.pruning import PruneConfig, prune, rebuild, structure_of

REFERENCE = "cifar-resnet8"


def fresh() -> nn.Module:
    return create(REFERENCE, num_classes=10, in_channels=3, image_size=(32, 32))


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    module = fresh().eval()
    result = prune(module, example_shape=(1, 3, 32, 32), config=PruneConfig(macs=0.5), round_to=4)
    return result.module, result.structure


def test_json_round_trip_gives_equal_bits(pruned: tuple[nn.Module, dict[str, Any]]) -> None:
    module, structure = pruned
    again = rebuild(fresh(), json.loads(json.dumps(structure))).eval()
    again.load_state_dict(module.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), module(images))
    assert structure_of(again, fresh()) == structure
    assert structure_of(fresh(), fresh()) == {"version": 1, "attributes": {}, "tensors": {}}


def test_new_process_gives_equal_bits(
    pruned: tuple[nn.Module, dict[str, Any]], tmp_path: Path
) -> None:
    module, structure = pruned
    card = ModelCard(
        reference=REFERENCE,
        task="classification",
        labels=tuple(f"class {number}" for number in range(10)),
        in_channels=3,
        preprocessing=Preprocessing(32, 32, mean=(0.5,) * 3, std=(0.5,) * 3).to_dict(),
        structure=structure,
    )
    save_checkpoint(tmp_path / "checkpoint", module, card)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "from edgevision.models.checkpoint import load_checkpoint\n"
        "module, _ = load_checkpoint(Path(sys.argv[1]))\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))\n"
        "with torch.no_grad():\n"
        "    save_file({'logits': module(images)}, sys.argv[2])\n"
    )
    output = tmp_path / "logits.safetensors"
    arguments = [tmp_path / "checkpoint", output, torch.get_num_threads()]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, timeout=300)
    from safetensors.torch import load_file

    with torch.no_grad():
        assert torch.equal(load_file(output)["logits"], module(images))
    loaded, _ = load_checkpoint(tmp_path / "checkpoint")
    assert structure_of(loaded, fresh()) == structure


def test_shared_parameters_stay_shared_and_frozen_ones_frozen() -> None:
    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one = nn.Linear(width, width)
            self.two = nn.Linear(width, width)
            self.two.weight = self.one.weight
            self.one.bias.requires_grad_(False)

    again = rebuild(Tied(8), structure_of(Tied(4), Tied(8)))
    assert again.two.weight is again.one.weight
    assert again.one.weight.shape == (4, 4)
    assert not again.one.bias.requires_grad
    assert again.two.bias.requires_grad


def test_other_layers_are_not_comparable() -> None:
    with pytest.raises(ModelError, match="does not have the layers of the original: 1"):
        structure_of(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


class Flat(nn.Flatten):
    def __init__(self) -> None:
        super().__init__()
        self._kept = 8


def net() -> nn.Module:
    convolution = nn.Conv2d(3, 8, 3, padding=1, stride=3)
    return nn.Sequential(convolution, nn.BatchNorm2d(8), Flat(), nn.Linear(8, 2))


GOOD = {
    "version": 1,
    "attributes": {
        "0": {"out_channels": 4},
        "1": {"num_features": 4},
        "3": {"in_features": 4},
    },
    "tensors": {
        "0.weight": [4, 3, 3, 3],
        "0.bias": [4],
        "1.weight": [4],
        "1.bias": [4],
        "1.running_mean": [4],
        "1.running_var": [4],
        "3.weight": [2, 4],
    },
}


def changed(*path: str, value: Any) -> dict[str, Any]:
    structure: dict[str, Any] = copy.deepcopy(GOOD)
    place = structure
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = value
    return structure


def test_the_good_structure_is_good() -> None:
    assert rebuild(net(), GOOD)(torch.zeros(2, 3, 3, 3)).shape == (2, 2)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (None, "got NoneType"),
        ([], "got list"),
        ({}, r"version, attributes and tensors, got \[\]"),
        ({**GOOD, "code": "x"}, "got .*'code'"),
        (changed("version", value=2), "Expected structure version 1, got 2"),
        (changed("attributes", value=[1]), "to be mappings"),
        (changed("attributes", "9", value={"out_channels": 4}), "layer '9'"),
        (changed("attributes", "0", value=7), "Expected attributes of '0', got int"),
        (changed("attributes", "0", "forward", value=1), "sets 'forward' of '0'"),
        (changed("attributes", "0", "__class__", value=1), "sets '__class__' of '0'"),
        (changed("attributes", "0", "training", value=0), "sets 'training' of '0'"),
        (changed("attributes", "0", "_modules", value=1), "sets '_modules' of '0'"),
        (
            changed("attributes", "0", "_reversed_padding_repeated_twice", value=[1] * 4),
            "sets '_reversed_padding_repeated_twice' of '0'",
        ),
        (changed("attributes", "2", "_kept", value=9), r"sizes from 1 up to \[8\]"),
        (changed("attributes", "2", "_kept", value="8"), "1 whole numbers"),
        (changed("attributes", "0", "out_channels", value=0), "sizes from 1 up to"),
        (changed("attributes", "0", "out_channels", value=-4), "sizes from 1 up to"),
        (changed("attributes", "0", "out_channels", value=10**12), "sizes from 1 up to"),
        (changed("attributes", "0", "out_channels", value="4"), "1 whole numbers"),
        (changed("attributes", "0", "out_channels", value=True), "1 whole numbers"),
        (changed("attributes", "0", "out_channels", value=4.0), "1 whole numbers"),
        (changed("attributes", "0", "out_channels", value=[4]), "1 whole numbers"),
        (changed("attributes", "0", "kernel_size", value=3), "2 whole numbers"),
        (changed("attributes", "0", "out_channels", value=5), r"Expected \[5, 3, 3, 3\]"),
        (changed("attributes", "1", "num_features", value=5), r"Expected \[5\] for '1.weight'"),
        (changed("attributes", "3", "in_features", value=5), r"Expected \[2, 5\]"),
        (changed("tensors", "5.weight", value=[4]), "tensor '5.weight', which the model lacks"),
        (changed("tensors", "0.weight", value=[4, 3, 3]), "4 whole numbers"),
        (changed("tensors", "0.weight", value=[4, 3, 3, 2**62]), "sizes from 1 up to"),
        (changed("tensors", "1.bias", value=[3]), r"Expected \[4\] for '1.bias', got \[3\]"),
        (changed("tensors", "0.bias", value="4"), "1 whole numbers"),
    ],
)
def test_a_structure_that_does_not_fit_changes_nothing(structure: Any, message: str) -> None:
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        rebuild(module, structure)
    now = module.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())
    assert module[0].out_channels == 8


def test_channels_that_do_not_fit_their_groups_are_refused() -> None:
    module = nn.Sequential(nn.Conv2d(8, 8, 1, groups=4))
    structure = {
        "version": 1,
        "attributes": {"0": {"out_channels": 6}},
        "tensors": {"0.weight": [6, 2, 1, 1], "0.bias": [6]},
    }
    with pytest.raises(ModelError, match="divisible by its 4 groups, got 8 in and 6 out"):
        rebuild(module, structure)
