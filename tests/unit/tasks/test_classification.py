from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.tasks import get_task
from edgevision.tasks.base import LossOptions
from edgevision.tasks.classification import Classification, ClassPrediction

LABELS = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis")


@pytest.fixture
def task() -> Classification:
    task = get_task("classification")
    assert isinstance(task, Classification)
    return task


def logits(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"logits": np.array(rows, np.float32)}


def test_top1_top5_and_per_class_count_what_they_say(task: Classification) -> None:
    metric = task.metric(7)
    metric.update(
        logits(
            [9, 0, 0, 0, 0, 0, 0],  # wanted 0: right
            [9, 8, 7, 6, 5, 4, 3],  # wanted 4: fifth
            [9, 8, 7, 6, 5, 4, 3],  # wanted 5: sixth
            [0, 0, 9, 0, 0, 0, 0],  # wanted 2: right
        ),
        [0, 4, 5, 2],
    )
    assert metric.compute() == {"top1": 50.0, "top5": 75.0}
    assert metric.per_class() == [100.0, None, 100.0, None, 0.0, 0.0, None]


def test_metric_over_batches_equals_the_whole(task: Classification) -> None:
    random = np.random.default_rng(0)
    scores, targets = random.normal(size=(100, 7)), random.integers(0, 7, 100)
    whole, parts = task.metric(7), task.metric(7)
    whole.update({"logits": scores}, targets)
    for start in range(0, 100, 30):
        parts.update({"logits": scores[start : start + 30]}, targets[start : start + 30])
    assert whole.compute() == parts.compute()
    assert whole.compute()["top1"] == 100 * np.mean(scores.argmax(1) == targets)


def test_top5_of_equal_scores_is_that_of_five_classes(task: Classification) -> None:
    metric = task.metric(7)
    metric.update({"logits": np.zeros((7, 7))}, list(range(7)))
    assert metric.compute()["top5"] == pytest.approx(500 / 7)


def test_five_classes_have_no_top5(task: Classification) -> None:
    metric = task.metric(5)
    metric.update({"logits": np.eye(5)}, [0, 1, 2, 3, 0])
    assert metric.compute() == {"top1": 80.0}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (logits([1, 2, 3]), r"\(N, 7\) for 7 classes, got \(1, 3\)"),
        ({"logits": np.zeros((1, 7, 1, 1))}, r"got \(1, 7, 1, 1\)"),
        (logits([1, 2, 3, np.nan, 0, 0, 0]), "NaN or infinite"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    task: Classification, outputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        task.metric(7).update(outputs, [0])
    with pytest.raises(ModelError, match=message):
        task.decode(outputs, LABELS)


def test_decode_gives_the_best_class_and_stable_probabilities(task: Classification) -> None:
    (found,) = task.decode(logits([1000, 1001, 0, 0, 0, 0, -1000]), LABELS)
    assert isinstance(found, ClassPrediction)
    assert (found.label, found.index) == ("dog", 1)
    assert found.score == pytest.approx(1 / (1 + np.exp(-1)))
    assert [label for label, _ in found.top] == ["dog", "cat", "eel", "fox", "gnu"]
    assert found.to_dict()["top"][0] == {"label": "dog", "score": found.score}


def test_decode_takes_whatever_the_output_is_called(task: Classification) -> None:
    (found,) = task.decode({"output_0": np.eye(7)[[3]]}, LABELS)
    assert found.to_dict()["label"] == "fox"


@pytest.mark.parametrize(
    ("target", "reason"),
    [(7, "outside the head's 0 to 6"), (-1, "outside"), ("dog", "class number"), (True, "number")],
)
def test_targets_that_do_not_fit_say_why(task: Classification, target: object, reason: str) -> None:
    told = task.check_target(target, 7)
    assert told is not None
    assert reason in told
    assert task.check_target(np.int64(6), 7) is None


def test_loss_is_cross_entropy_with_smoothing_and_weights(task: Classification) -> None:
    outputs, targets = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    log = torch.log_softmax(outputs, 1)
    plain = -(log[0, 0] + log[1, 2]) / 2
    assert torch.allclose(task.loss(outputs, targets, LossOptions()), plain)
    soft = nn.functional.one_hot(targets, 3).float()
    assert torch.allclose(task.loss(outputs, soft, LossOptions()), plain)
    smooth = -((0.9 * log[0, 0] + 0.1 * log[0].mean()) + (0.9 * log[1, 2] + 0.1 * log[1].mean()))
    assert torch.allclose(task.loss(outputs, targets, LossOptions(0.1)), smooth / 2)
    weighted = -(0.5 * log[0, 0] + 2.0 * log[1, 2]) / 2.5
    options = LossOptions(class_weights=(0.5, 0.5, 2.0))
    assert torch.allclose(task.loss(outputs, targets, options), weighted)


def test_distillation_is_zero_for_equal_outputs_and_grows(task: Classification) -> None:
    teacher = torch.tensor([[2.0, 0.0, -1.0]])
    assert task.distillation_loss(teacher + 3, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)
    near = task.distillation_loss(teacher * 0.9, teacher, 4.0)
    far = task.distillation_loss(-teacher, teacher, 4.0)
    assert 0 < near < far


def test_head_is_the_last_layer_of_the_right_width(task: Classification) -> None:
    first, last = nn.Linear(4, 7), nn.Linear(7, 7)
    assert task.head_layers(nn.Sequential(first, last, nn.ReLU()), 7) == [last]
    conv = nn.Conv2d(8, 7, 1)
    assert task.head_layers(nn.Sequential(nn.Conv2d(3, 8, 3), conv), 7) == [conv]
    with pytest.raises(ModelError, match="has 9 outputs"):
        task.head_layers(nn.Sequential(first), 9)


def test_drawing_enlarges_a_small_image_and_adds_the_text_below(task: Classification) -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    (found,) = task.decode(logits([0, 9, 0, 0, 0, 0, 0]), LABELS)
    drawn = np.asarray(task.draw(image, found))
    assert drawn.shape[1] == 224
    assert drawn.shape[0] > 224
    assert (drawn[:224] == 200).all()
    assert drawn[224:].max() == 255  # the text
