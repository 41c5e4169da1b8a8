from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgevision.data import DataSplits
from edgevision.data.arrays import ArrayDataset
from edgevision.errors import DataError, ModelError, RecipeError, UsageError
from edgevision.models import create
from edgevision.models.checkpoint import save_tensors
from edgevision.pruning.sparse_learning import GroupRegularizer
from edgevision.tasks import get_task
from edgevision.train import Progress, TrainConfig, TrainResult, evaluate, fit, override
from edgevision.train.fabric import computes_bf16, make_fabric
from edgevision.train.state import load_facts, load_run, save_run

TASK = get_task("classification")
CONFIG = TrainConfig.model_validate(
    {
        "epochs": 3,
        "batch_size": 40,
        "optimizer": "muon",
        "learning_rate": 0.05,
        "muon_learning_rate": 0.05,
        "ema_decay": 0.9,
        "augment": {"flip": "alternating", "crop_padding": 2, "mixup": 0.2},
        "save_every_seconds": 0,
    }
)


class Net(nn.Module):
    """Small, with dropout: its random numbers must survive an interruption too."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def net(classes: int = 3) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net(classes)


_APART = ("teacher", "regularizer", "progress")


def run(
    data: DataSplits, folder: Path, module: nn.Module | None = None, **changes: Any
) -> TrainResult:
    more = {key: changes.pop(key) for key in _APART if key in changes}
    config = TrainConfig.model_validate({**CONFIG.model_dump(), **changes})
    return fit(module or net(), data, data.preprocessing, TASK, config, folder=folder, **more)


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_at(epoch: int, step: int) -> Any:
    def progress(at: Progress) -> None:
        if (at.epoch, at.step) == (epoch, step):
            raise KilledError

    return progress


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return module.state_dict()


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_and_uninterrupted_weights_are_bit_equal(
    clothes: DataSplits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    precision: str,
) -> None:
    monkeypatch.setattr("edgevision.train.loop._CHECK_EVERY", 2)
    options = {"optimizer": optimizer, "precision": precision}
    whole = run(clothes, tmp_path / "whole", **options)
    for epoch, step in ((0, 2), (0, 6), (1, 4), (2, 2)):  # within epochs and at the end of one
        with pytest.raises(KilledError):
            run(clothes, tmp_path / "cut", progress=killed_at(epoch, step), **options)
    # The global random state differs in the new process: it must not matter.
    torch.manual_seed(99)
    carried = run(clothes, tmp_path / "cut", **options)
    assert same(whole.module, carried.module)
    assert whole.metrics == carried.metrics
    for one, two in zip(whole.history, carried.history, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_kill_does_go_on_from_the_middle(
    clothes: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevision.train.loop._CHECK_EVERY", 2)
    with pytest.raises(KilledError):
        run(clothes, tmp_path, progress=killed_at(1, 4))
    seen: list[tuple[int, int]] = []
    run(clothes, tmp_path, progress=lambda at: seen.append((at.epoch, at.step)))
    assert seen[0] == (1, 4)


def test_a_finished_run_is_only_read(clothes: DataSplits, tmp_path: Path) -> None:
    first = run(clothes, tmp_path)
    state = (tmp_path / "training.safetensors").read_bytes()
    seen: list[Progress] = []
    again = run(clothes, tmp_path, progress=seen.append)
    assert same(first.module, again.module)
    assert (first.metrics, first.history) == (again.metrics, again.history)
    assert not seen
    assert (tmp_path / "training.safetensors").read_bytes() == state


def test_the_state_of_another_run_is_neither_carried_on_nor_overwritten(
    clothes: DataSplits, tmp_path: Path
) -> None:
    run(clothes, tmp_path, epochs=1)
    path = tmp_path / "training.safetensors"
    state = path.read_bytes()
    other = net()
    with torch.no_grad():
        other.head.bias.add_(1)
    fewer = replace(clothes, train=uneven(clothes).train)
    cases: list[tuple[DataSplits, nn.Module, dict[str, Any], str]] = [
        (clothes, net(), {"seed": 1}, r"What differs: seed 0 there, 1 asked for\."),
        (clothes, net(), {"learning_rate": 0.04}, "learning_rate 0.05 there, 0.04 asked for"),
        (clothes, other, {}, r"What differs: the weights at the start\."),
        (fewer, net(), {}, r"What differs: the data\."),
        (clothes, net(), {"teacher": net()}, r"What differs: the teacher\."),
    ]
    for data, module, changes, message in cases:
        with pytest.raises(UsageError, match=message) as caught:
            run(data, tmp_path, module, **{"epochs": 1, **changes})
        assert "--out" in str(caught.value)
        assert path.read_bytes() == state


def test_an_older_state_without_its_origin_is_carried_on_or_refused(
    clothes: DataSplits, tmp_path: Path
) -> None:
    first = run(clothes, tmp_path, epochs=1)
    path = tmp_path / "training.safetensors"
    facts = load_facts(path)
    assert facts is not None
    del facts["origin"]
    save_run(path, load_run(path), facts)
    assert same(first.module, run(clothes, tmp_path, epochs=1).module)
    with pytest.raises(UsageError, match="its settings, its data or its weights"):
        run(clothes, tmp_path, epochs=1, seed=1)


def test_a_damaged_state_is_told(clothes: DataSplits, tmp_path: Path) -> None:
    run(clothes, tmp_path, epochs=1)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="is damaged or no training state"):
        run(clothes, tmp_path, epochs=1)


def test_it_learns_and_reports_what_evaluate_finds(clothes: DataSplits, tmp_path: Path) -> None:
    module = create("cifar-resnet8", num_classes=3, in_channels=1, image_size=(28, 28))
    result = run(clothes, tmp_path, module, epochs=6, ema_decay=None, evaluate_every=2)
    assert result.metrics["top1"] > 80
    again = evaluate(result.module, clothes.validation, clothes.preprocessing, TASK)
    assert again == result.metrics
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3, 4, 5, 6]
    assert ["top1" in entry for entry in result.history] == [False, True, False, True, False, True]
    assert not result.module.training
    assert result.module is module


def test_the_average_is_the_result_and_does_not_touch_the_training(
    clothes: DataSplits, tmp_path: Path
) -> None:
    averaged = run(clothes, tmp_path / "a").module.state_dict()
    last = run(clothes, tmp_path / "b", ema_decay=None).module.state_dict()
    state = load_file(tmp_path / "a" / "training.safetensors")
    assert all(torch.equal(averaged[name], state[f"ema.{name}"]) for name in averaged)
    assert all(torch.equal(last[name], state[f"model.{name}"]) for name in last)
    assert not torch.equal(averaged["head.weight"], last["head.weight"])


def test_progress_tells_where_it_stands(clothes: DataSplits, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(clothes, tmp_path, progress=seen.append)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(0, 6, 6), (1, 6, 6), (2, 6, 6)]
    assert seen[0].metric is None
    assert seen[1].metric is not None
    assert seen[-1].seconds_left == 0
    assert all(p.loss > 0 for p in seen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_diverging_loss_stops_with_the_way_out(
    clothes: DataSplits, tmp_path: Path, precision: str
) -> None:
    module = net()
    with torch.no_grad():
        module.head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="loss is nan in epoch 1, step 6") as caught:
        run(clothes, tmp_path, module, precision=precision)
    assert "lower learning rate" in str(caught.value)
    assert not (tmp_path / "training.safetensors").exists()


def test_a_frozen_body_stays_and_then_learns(clothes: DataSplits, tmp_path: Path) -> None:
    start = net()
    frozen = run(clothes, tmp_path / "a", net(), epochs=2, freeze_epochs=2, ema_decay=None)
    for name, value in weights(start).items():
        assert torch.equal(weights(frozen.module)[name], value) == name.startswith("body")
    thawed = run(clothes, tmp_path / "b", net(), epochs=3, freeze_epochs=2)
    assert not torch.equal(thawed.module.body[0].weight, start.body[0].weight)
    assert all(p.requires_grad for p in thawed.module.parameters())


def test_weights_are_taken_over_and_a_foreign_head_is_replaced(
    clothes: DataSplits, tmp_path: Path
) -> None:
    given = net(classes=9)
    with torch.no_grad():
        given.body[0].weight.mul_(3)
    path = tmp_path / "given.safetensors"
    save_tensors(path, given.state_dict())
    options = {"weights": path, "epochs": 1, "freeze_epochs": 1}
    result = run(clothes, tmp_path / "run", net(), **options)
    assert torch.equal(result.module.body[0].weight, given.body[0].weight)
    assert result.module.head.weight.shape == (3, 8)


def test_weights_of_another_network_are_refused(clothes: DataSplits, tmp_path: Path) -> None:
    other = create("cifar-resnet8", num_classes=3, in_channels=1, image_size=(28, 28))
    path = tmp_path / "other.safetensors"
    save_tensors(path, other.state_dict())
    with pytest.raises(ModelError, match="holds weights of another network: 6 of 8 tensors"):
        run(clothes, tmp_path, weights=path)
    with pytest.raises(ModelError, match="is a pickle"):
        run(clothes, tmp_path, weights=tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="There is no file"):
        run(clothes, tmp_path, weights=tmp_path / "none.safetensors")


def test_a_student_moves_towards_its_teacher(clothes: DataSplits, tmp_path: Path) -> None:
    class Always(nn.Module):
        """Says class 2 whatever it sees."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 0.0, 20.0]]).repeat(len(images), 1)

    options = {"distillation_weight": 1.0, "temperature": 1.0, "learning_rate": 0.5}
    student = run(clothes, tmp_path, teacher=Always(), **options).module
    images = torch.zeros(4, 1, 28, 28)
    assert (student(images).argmax(1) == 2).all()


def test_a_student_takes_over_its_teachers_features_where_their_shapes_agree(
    clothes: DataSplits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = net()
    with torch.no_grad():
        teacher.body[1].bias.add_(2)
    seen: list[torch.Tensor] = []

    def distance(name: str, feature_weight: float) -> float:
        options = {"optimizer": "sgd", "learning_rate": 0.02, "ema_decay": None}
        student = run(
            clothes, tmp_path / name, teacher=teacher, feature_weight=feature_weight, **options
        ).module
        features = []
        images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        for module in (student, teacher.eval()):
            handle = module.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            module(images)
            handle.remove()
            features.append(seen.pop().detach())
            assert not module.head._forward_pre_hooks
        return float((features[0] - features[1]).pow(2).mean())

    assert distance("with", 5.0) < 0.5 * distance("without", 0.0)
    assert not caplog.records
    wide = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 3))
    one = run(clothes, tmp_path / "a", teacher=wide, feature_weight=5.0).module
    assert "reads other features" in caplog.text
    assert same(one, run(clothes, tmp_path / "b", teacher=wide).module)


def test_a_regularizer_works_at_every_step_and_survives_an_interruption(
    clothes: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevision.train.loop._CHECK_EVERY", 2)
    options = {"optimizer": "sgd", "ema_decay": None}

    def sparse(name: str, strength: float = 0.05, **more: Any) -> nn.Module:
        module = net().eval()
        regularizer = GroupRegularizer(
            module, (1, 1, 28, 28), strength, ignored=[module.get_submodule("head")]
        )
        return run(
            clothes, tmp_path / name, module, regularizer=regularizer, **options, **more
        ).module

    whole = sparse("whole")
    with pytest.raises(KilledError):
        sparse("cut", progress=killed_at(1, 4))
    assert same(whole, sparse("cut"))
    plain = run(clothes, tmp_path / "plain", **options).module
    sizes = [m.body[0].weight.detach().pow(2).sum() for m in (whole, plain)]
    assert float(sizes[0]) < 0.8 * float(sizes[1])
    with pytest.raises(UsageError, match=r"sparse_strength 0\.05 there, 0\.1 asked for"):
        sparse("whole", strength=0.1)


def uneven(clothes: DataSplits) -> DataSplits:
    assert isinstance(clothes.train, ArrayDataset)
    keep = np.r_[0:80, 80:90, 160:165]
    train = ArrayDataset(
        "uneven", clothes.train.images[keep], clothes.train.targets[keep], clothes.labels
    )
    return replace(clothes, train=train)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balancing_raises_the_rare_classes(
    clothes: DataSplits, tmp_path: Path, balance: str
) -> None:
    data = uneven(clothes)

    def rare_share(name: str, **options: Any) -> float:
        module = run(
            data, tmp_path / name, epochs=4, batch_size=19, ema_decay=0.5, **options
        ).module
        with torch.no_grad():
            scores = module(torch.zeros(1, 1, 28, 28)).softmax(1)
        return float(scores[0, 1:].sum())

    assert rare_share("even", balance=balance) > rare_share("uneven") + 0.05


def test_class_weights_need_every_class(clothes: DataSplits, tmp_path: Path) -> None:
    assert isinstance(clothes.train, ArrayDataset)
    train = ArrayDataset(
        "two", clothes.train.images[:160], clothes.train.targets[:160], clothes.labels
    )
    with pytest.raises(DataError, match="no image of class"):
        run(replace(clothes, train=train), tmp_path, balance="weights")


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match="epochs"):
        override(CONFIG, epochs=0)
    with pytest.raises(RecipeError, match="epoch_count"):
        override(CONFIG, epoch_count=3)
    with pytest.raises(RecipeError, match="one-cycle"):
        override(CONFIG, schedule="two-cycle")
    with pytest.raises(RecipeError, match="'auto' or 'ddp'"):
        override(CONFIG, strategy="ddp_spawn")


def test_what_is_off_leaves_no_trace_in_stored_settings() -> None:
    assert "feature_weight" not in CONFIG.model_dump(mode="json")
    on = override(CONFIG, feature_weight=0.5)
    assert on.model_dump(mode="json")["feature_weight"] == 0.5
    assert TrainConfig.model_validate(on.model_dump()) == on


def test_a_missing_gpu_is_told(clothes: DataSplits, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UsageError, match="finds no CUDA device"):
        run(clothes, tmp_path, accelerator="cuda")


def test_auto_precision_is_fp32_for_depthwise_networks_on_a_cpu() -> None:
    config = TrainConfig(accelerator="cpu")
    depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten())
    assert make_fabric(config, depthwise)[1] == "fp32"
    dense = make_fabric(config, nn.Conv2d(4, 4, 3))[1]
    assert dense == ("bf16" if computes_bf16("cpu") else "fp32")
    asked = config.model_copy(update={"precision": "bf16"})
    assert make_fabric(asked, depthwise)[1] == "bf16"
