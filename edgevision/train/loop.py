"""The training loop, on Lightning Fabric."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from edgevision.data.base import DataSplits
from edgevision.data.loader import BatchLoader, class_weights
from edgevision.errors import ModelError, UsageError
from edgevision.preprocessing import Preprocessing
from edgevision.pruning.sparse_learning import GroupRegularizer
from edgevision.tasks.base import LossOptions, Task
from edgevision.train.config import TrainConfig
from edgevision.train.ema import Ema, weights_of
from edgevision.train.evaluate import evaluate
from edgevision.train.fabric import make_fabric, takes_channels_last
from edgevision.train.features import FeatureDistillation
from edgevision.train.optimizers import make_optimizers
from edgevision.train.results import Progress, TrainResult
from edgevision.train.schedule import rate
from edgevision.train.state import (
    RUN_FILE,
    load_facts,
    load_run,
    module_digest,
    optimizer_state,
    refusal,
    restore_optimizer,
    save_run,
)
from edgevision.train.transfer import start_from, train_mode

_PREPARE_IMAGES = 5000
_CHECK_EVERY = 10  # steps between looks at the loss: each look waits for the device
# Fields that change what is shown or where it runs, not which network comes out.
_NOT_IN_FINGERPRINT = {"evaluate_every", "save_every_seconds", "accelerator", "devices"} | {
    "num_nodes",
    "strategy",
    "weights",
}


def fit(
    module: nn.Module,
    data: DataSplits,
    preprocessing: Preprocessing,
    task: Task,
    config: TrainConfig,
    *,
    folder: Path,
    teacher: nn.Module | None = None,
    regularizer: GroupRegularizer | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train ``module`` in place.

    Args:
        folder: holds the run's state (``training.safetensors``). A run that was interrupted is
            carried on from there, and on one device gives the same network bit for bit; a run
            that is finished is only read; one of another origin is refused.
        teacher: network to distil from; takes the same input.
        regularizer: made for ``module``; adds to the gradients of every step.
        progress: called after every look at the loss.

    Raises:
        ModelError: the loss is not finite, or weights do not fit.
        UsageError: the settings do not fit together or the machine, or ``folder`` holds the state
            of another training.
        DataError: an image cannot be read, or class weights with an empty class.
    """
    fabric, precision = make_fabric(config, module)
    fabric.launch()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + fabric.global_rank)
        run = _Run(
            fabric, module, data, preprocessing, task, config, folder, teacher, regularizer,
            progress,
        )  # fmt: skip
        try:
            run.train()
        finally:
            if run.features is not None:
                run.features.remove()
        metrics = run.finish()
    return TrainResult(
        module, metrics, run.history, run.seconds, precision, main_process=fabric.is_global_zero
    )


class _Run:
    """One call of ``fit``."""

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        data: DataSplits,
        preprocessing: Preprocessing,
        task: Task,
        config: TrainConfig,
        folder: Path,
        teacher: nn.Module | None,
        regularizer: GroupRegularizer | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.fabric, self.data, self.task, self.config = fabric, data, task, config
        self.preprocessing, self.progress = preprocessing, progress
        self.classes = len(data.labels)
        self.path = folder / RUN_FILE
        self.module, self.regularizer = module, regularizer
        if config.batch_size % fabric.world_size:
            raise UsageError(
                f"batch_size {config.batch_size} cannot be divided evenly over "
                f"{fabric.world_size} processes."
            )
        if config.weights is not None:
            start_from(module, config.weights, task, self.classes)
        # Only these two treat the head apart; a network read from ONNX has no layers to look for.
        apart = config.freeze_epochs or config.optimizer == "muon"
        self.heads = task.head_layers(module, self.classes) if apart else []
        self.origin = self._origin(teacher)
        origin = json.dumps(self.origin, sort_keys=True)
        self.fingerprint = hashlib.sha256(origin.encode()).hexdigest()
        self.loader = BatchLoader(
            data.train,
            preprocessing,
            task,
            config.batch_size // fabric.world_size,
            seed=config.seed,
            train=True,
            augment=config.augment,
            balanced=config.balance == "sampling",
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        weights = class_weights(data.train, task) if config.balance == "weights" else None
        self.loss_options = LossOptions(config.label_smoothing, weights)
        self._prepare()
        self.trainable = [p for p in module.parameters() if p.requires_grad]
        if takes_channels_last(module, fabric.device.type):
            module.to(memory_format=torch.channels_last)
        bare = make_optimizers(module, self.heads, config)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in bare]
        wrapped = fabric.setup(module, *bare)
        self.wrapped: nn.Module = wrapped[0]
        self.optimizers: list[torch.optim.Optimizer] = list(wrapped[1:])
        self.bare = bare
        self.teacher = None
        if teacher is not None:
            self.teacher = teacher.to(fabric.device).eval()
        self.features = None
        if teacher is not None and config.feature_weight:
            self.features = FeatureDistillation(module, teacher, task, self.classes)
        self.ema = Ema(module, config.ema_decay) if config.ema_decay else None
        self.history: list[dict[str, float]] = []
        self.epoch = self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=fabric.device)
        self.seconds = 0.0
        self.epoch_seconds = 0.0
        self._resume()

    def _origin(self, teacher: nn.Module | None) -> dict[str, Any]:
        """What the result depends on; a state of other origin is not carried on."""
        return {
            "config": self.config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT),
            "world_size": self.fabric.world_size,
            "data": [self.data.train.fingerprint(), len(self.data.train)],
            "preprocessing": self.preprocessing.to_dict(),
            "task": self.task.name,
            "start": module_digest(self.module),
            "teacher": module_digest(teacher) if teacher is not None else None,
            **({"sparse_strength": self.regularizer.strength} if self.regularizer else {}),
        }

    def _prepare(self) -> None:
        """Let a network with data-dependent weights see some training images."""
        prepare = getattr(self.module, "prepare", None)
        if prepare is None:
            return
        images: list[Tensor] = []
        loader = BatchLoader(
            self.data.train, self.preprocessing, self.task, 500, seed=self.config.seed, train=True
        )
        for batch, _ in loader:
            images.append(batch)
            if sum(map(len, images)) >= _PREPARE_IMAGES:
                break
        prepare(torch.cat(images))

    def train(self) -> None:
        config = self.config
        self.started = self.saved = time.monotonic()
        self.before = self.seconds
        self.steps_here = 0
        while self.epoch < config.epochs:
            frozen = self.epoch < config.freeze_epochs
            self._freeze(frozen)
            self.loader.set_epoch(self.epoch, self.step)
            epoch_started = time.monotonic() - self.epoch_seconds
            for images, targets in self.loader:
                train_mode(self.wrapped, self.heads, frozen)
                self._one_step(images, targets)
                self.step += 1
                self.steps_here += 1
                last = self.step == len(self.loader)
                if self.step % _CHECK_EVERY == 0 or last:
                    self._look()
                    self.epoch_seconds = time.monotonic() - epoch_started
                    due = time.monotonic() - self.saved >= config.save_every_seconds
                    if due and not last:
                        self._save()
            self._end_epoch()
        self._freeze(False)

    def _one_step(self, images: Tensor, targets: Tensor) -> None:
        config, fabric = self.config, self.fabric
        images, targets = images.to(fabric.device), targets.to(fabric.device)
        factor = rate(
            config.schedule,
            config.warmup,
            self.epoch * len(self.loader) + self.step,
            config.epochs * len(self.loader),
        )
        for optimizer, peaks in zip(self.bare, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        outputs = self.wrapped(images)
        loss = self.task.loss(outputs, targets, self.loss_options)
        if self.teacher is not None:
            with torch.no_grad(), fabric.autocast():
                wanted = self.teacher(images)
            distance = self.task.distillation_loss(outputs, wanted, config.temperature)
            loss = (1 - config.distillation_weight) * loss + config.distillation_weight * distance
            if self.features is not None:
                loss = loss + config.feature_weight * self.features.loss()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if self.regularizer is not None:
            self.regularizer.add()
        if config.clip_norm is not None:
            trained = [p for p in self.trainable if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema is not None:
            self.ema.update(self.module)
        self.loss_sum += loss.detach()

    def _freeze(self, frozen: bool) -> None:
        heads = {id(p) for head in self.heads for p in head.parameters()}
        for parameter in self.trainable:
            parameter.requires_grad_(not frozen or id(parameter) in heads)

    def _look(self) -> None:
        loss = float(self.loss_sum) / self.step
        if not math.isfinite(loss):
            raise ModelError(
                f"The training loss is {loss} in epoch {self.epoch + 1}, step {self.step}: "
                "the training has diverged.",
                hint="Use a lower learning rate, gradient clipping, or precision fp32. "
                f"The last good state is kept in {self.path.parent}.",
            )
        self.seconds = self.before + time.monotonic() - self.started
        if self.progress is None or not self.fabric.is_global_zero:
            return
        done = self.epoch * len(self.loader) + self.step
        left = self.config.epochs * len(self.loader) - done
        each = (time.monotonic() - self.started) / max(1, self.steps_here)
        self.progress(
            Progress(
                epoch=self.epoch,
                epochs=self.config.epochs,
                step=self.step,
                steps=len(self.loader),
                loss=loss,
                metric=self._last_metric(),
                seconds_left=left * each,
            )
        )

    def _last_metric(self) -> float | None:
        for entry in reversed(self.history):
            if self.task.metric_name in entry:
                return entry[self.task.metric_name]
        return None

    def _end_epoch(self) -> None:
        entry = {"epoch": float(self.epoch + 1), "loss": float(self.loss_sum) / self.step}
        entry["seconds"] = self.epoch_seconds
        last = self.epoch + 1 == self.config.epochs
        if not last and (self.epoch + 1) % self.config.evaluate_every == 0:
            entry |= self._evaluate(cast(AbstractContextManager[object], self.fabric.autocast()))
        self.history.append(entry)
        self.epoch += 1
        self.step = 0
        self.epoch_seconds = 0.0
        self.loss_sum.zero_()
        self._save()

    def _evaluate(self, autocast: AbstractContextManager[object]) -> dict[str, float]:
        """Figures on the validation split, by the first process for all of them."""
        metrics: dict[str, float] = {}
        if self.fabric.is_global_zero:
            with weights_of(self.module, self.ema):
                metrics = evaluate(
                    self.module,
                    self.data.validation,
                    self.preprocessing,
                    self.task,
                    autocast=autocast,
                )
        return cast(dict[str, float], self.fabric.broadcast(metrics))

    def finish(self) -> dict[str, float]:
        """Put the final weights in place and evaluate them in FP32."""
        module = self.module
        if self.task.metric_name not in self.history[-1]:
            self.history[-1] |= self._evaluate(nullcontext())
            self._save()
        if self.ema is not None:
            module.load_state_dict(self.ema.average)
        metrics = {
            key: value
            for key, value in self.history[-1].items()
            if key not in ("epoch", "loss", "seconds")
        }
        module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        module.eval()
        return metrics

    def _save(self) -> None:
        self.saved = time.monotonic()
        self.seconds = self.before + self.saved - self.started
        if not self.fabric.is_global_zero:
            return
        tensors = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        plain: dict[str, Any] = {}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        for number, optimizer in enumerate(self.bare):
            some, values = optimizer_state(optimizer, f"optimizer{number}")
            tensors |= some
            plain |= values
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.fabric.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        tensors["loss_sum"] = self.loss_sum
        facts = {
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "ema_steps": self.ema.steps if self.ema is not None else 0,
            "optimizers": plain,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_run(self.path, tensors, facts)

    def _resume(self) -> None:
        facts = load_facts(self.path)
        if facts is None:
            return
        if facts.get("fingerprint") != self.fingerprint:
            ours = json.loads(json.dumps(self.origin))  # lists for tuples, as they come back
            raise refusal(self.path, facts.get("origin"), ours)
        tensors = load_run(self.path)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.module.load_state_dict(part("model."))
        if self.ema is not None:
            self.ema.restore(part("ema."), facts["ema_steps"])
        for number, optimizer in enumerate(self.bare):
            restore_optimizer(optimizer, f"optimizer{number}", tensors, facts["optimizers"])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.fabric.device)
        self.loss_sum.copy_(tensors["loss_sum"])
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.history = facts["history"]
        self.seconds, self.epoch_seconds = facts["seconds"], facts["epoch_seconds"]
