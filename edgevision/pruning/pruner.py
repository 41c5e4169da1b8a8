"""Structured pruning to a target: trace, score, choose widths, narrow, check, repeat."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.pruning.blocks import remove_blocks
from edgevision.pruning.config import PruneConfig
from edgevision.pruning.cost import WidthCost
from edgevision.pruning.gradients import Batches, Loss
from edgevision.pruning.graph import Graph, find_groups, remove
from edgevision.pruning.importance import IMPORTANCES
from edgevision.pruning.macs import Count, count
from edgevision.pruning.sensitivity import measured_losses
from edgevision.pruning.structure import structure_of
from edgevision.pruning.table import PruneTable, prune_table
from edgevision.pruning.timed import TimeGoal, choose_within
from edgevision.pruning.whole import (
    copied,
    counted,
    example_input,
    ignored_names,
    output_shapes,
    restore_modes,
)
from edgevision.pruning.widths import Prunable, choose_widths, even_widths, prunable

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PruneResult:
    """The pruned network and what was done to it.

    ``asked`` and ``reached`` are fractions removed, of what ``target`` names ("macs", "params"
    or "pruning_ratio"), or a "speedup" or "latency_ms", ``reached`` as predicted.
    ``structure`` is what :func:`edgevision.pruning.rebuild` needs.
    """

    module: nn.Module
    table: PruneTable
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    target: str
    asked: float
    reached: float
    structure: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the report, without weights and structure."""
        return {
            "target": self.target,
            "asked": self.asked,
            "reached": self.reached,
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "params_before": self.params_before,
            "params_after": self.params_after,
            **self.table.to_dict(),
        }


def prune(
    module: nn.Module,
    *,
    example_shape: tuple[int, ...],
    config: PruneConfig,
    ignored: Sequence[nn.Module] = (),
    round_to: int = 1,
    without: Sequence[str] = (),
    batches: Batches | None = None,
    loss: Loss | None = None,
    time: TimeGoal | None = None,
    after_step: Callable[[nn.Module, int, int], None] | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> PruneResult:
    """Remove channels of ``module`` until the target of ``config`` is met.

    ``module`` is left as it is; a narrowed copy comes back, in the same training mode, on the
    same device, with the same ``requires_grad``. After each step it has been run on batches of 1
    and 2 and gives outputs of the same shape as the original; groups of layers that would break
    it, or that must not be pruned, stay whole, and the table says why.

    Args:
        module: a network that takes one image tensor.
        example_shape: input shape (1, C, H, W) for tracing and counting.
        config: score, target and limits.
        ignored: layers of ``module`` whose outputs stay whole, as heads; with all inside them.
        round_to: narrowed layers keep a multiple of this many channels.
        without: blocks that go whole before anything is narrowed; ``time`` is of what is left.
        batches: makes an iterator of (float32 NCHW images, targets); for scores that
            rest on data.
        loss: from (outputs, targets) to a scalar; for scores by gradients, and for what widths cost
            where the target is a time.
        time: what to reach where the target is a time.
        after_step: called with (narrowed module, step from 1, steps) after each step, for
            fine-tuning in place. It must not change widths.
        progress: called with (phase, done, total).

    Raises:
        ModelError: the network cannot be traced or copied, the target cannot be reached, an
            ignored pattern matches no layer, or scores are not finite.
        UsageError: a score that rests on data without batches or loss.
    """
    if round_to < 1:
        raise ValueError(f"expected round_to >= 1, got {round_to}")
    if config.is_timed != (time is not None):
        raise UsageError("A goal for the time goes with a target of speedup or latency_ms.")
    modes = {name: layer.training for name, layer in module.named_modules()}
    work = copied(module).eval()
    example = example_input(work, example_shape)
    kept_whole = ignored_names(module, ignored, config.ignored_layers)
    original = copy.deepcopy(work)
    before = counted(work, example)
    remove_blocks(work, without)
    session = _Session(
        config,
        example,
        kept_whole,
        round_to,
        batches,
        loss,
        before,
        output_shapes(work, example),
        time,
        progress,
    )
    for step in range(1, config.steps + 1):
        work = session.step(work, step)
        restore_modes(work, modes)
        if after_step is not None:
            after_step(work, step, config.steps)
            modes = {name: layer.training for name, layer in work.named_modules()}
            session.check(work)
        work.eval()
    after = counted(work, example)
    structure = structure_of(work, original)
    table = prune_table(original, work, before, after, session.whole)
    restore_modes(work, modes)
    name, asked = config.target
    reached = {
        "macs": 1.0 - after.macs / before.macs,
        "params": 1.0 - after.params / before.params,
        "pruning_ratio": session.channel_ratio,
    }.get(name, session.predicted)
    return PruneResult(
        module=work,
        table=table,
        macs_before=before.macs,
        macs_after=after.macs,
        params_before=before.params,
        params_after=after.params,
        target=name,
        asked=asked,
        reached=reached,
        structure=structure,
    )


@dataclass
class _Session:
    """What stays the same from step to step, and what has been learnt about the network."""

    config: PruneConfig
    example: torch.Tensor
    ignored: Collection[str]
    round_to: int
    batches: Batches | None
    loss: Loss | None
    before: Count
    shapes: list[tuple[int, ...]]
    time: TimeGoal | None
    progress: Progress
    whole: dict[str, str] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)  # units after the last step
    channel_ratio: float = 0.0
    predicted: float = 0.0

    def step(self, module: nn.Module, step: int) -> nn.Module:
        """A narrowed copy of ``module``; groups that break it are found and left whole."""
        graph = find_groups(module, self.example, self.ignored)
        if not self.units:
            self.units = {group.name: len(group.units) for group in graph.groups}
        self.whole.update(graph.whole)
        candidates = self._score(module, graph)
        present = count(module, self.example)
        now = self._present(graph)
        if step == 1 and self.time is None:
            self._choose(candidates, present, 1.0)  # unreachable targets fail before any work
        while True:
            if self.time is None:
                kept = self._choose(candidates, present, step / self.config.steps)
            else:
                kept = self._choose_by_time(module, candidates, now, step)
            removals: dict[str, list[int]] = {}
            for item in candidates:
                units = item.order[: len(item.group.units) - kept[item.group.name]]
                channels = [int(c) for unit in units for c in item.group.units[unit]]
                if channels:
                    removals.setdefault(item.group.root, []).extend(channels)
            try:
                narrow = self._narrowed(module, graph, removals)
            except Exception as error:  # noqa: BLE001 - a foreign forward may raise anything
                broken = self._broken(module, graph, removals, error)
            else:
                self.kept = {**now, **kept}
                return narrow
            self.whole.update(broken)
            candidates = [item for item in candidates if item.group.root not in broken]

    def check(self, module: nn.Module) -> None:
        """Raise ModelError unless ``module`` runs and gives the original's output shapes."""
        modes = {name: layer.training for name, layer in module.named_modules()}
        module.eval()
        try:
            shapes = output_shapes(module, self.example)
        finally:
            restore_modes(module, modes)
        if shapes != self.shapes:
            raise ModelError(f"Expected outputs of shape {self.shapes}, got {shapes}.")

    def _present(self, graph: Graph) -> dict[str, int]:
        """Units that each group has now; one that has but one left is no group any more."""
        found = {group.name: len(group.units) for group in graph.groups}
        return {**found, **{name: 1 for name, units in self.kept.items() if units == 1}}

    def _score(self, module: nn.Module, graph: Graph) -> list[Prunable]:
        importance = IMPORTANCES.get(self.config.importance)(self.config)
        candidates = []
        with importance.observing(module, graph.groups, self.batches, self.loss):
            for group in graph.groups:
                if {group.name, group.root} & self.whole.keys():
                    continue
                # Without its other heads the last one may look like channels of a layer.
                if group.name not in self.units or self.kept.get(group.name) == 1:
                    continue
                scores = importance.score(group)
                if scores is None:
                    self.whole[group.name] = f"{self.config.importance} has no basis to score it"
                    continue
                item = prunable(
                    group,
                    scores,
                    round_to=self.round_to,
                    max_ratio=self.config.max_ratio,
                    original=self.units[group.name],
                )
                if item is not None:
                    candidates.append(item)
                elif len(group.units) == self.units[group.name]:
                    self.whole[group.name] = (
                        f"no width below {group.channels} is a multiple of {self.round_to} "
                        f"within max_ratio {self.config.max_ratio}"
                    )
        return candidates

    def _choose(
        self, candidates: list[Prunable], present: Count, progress: float
    ) -> dict[str, int]:
        """Widths for the share ``progress`` of the target."""
        name, asked = self.config.target
        goal = asked * progress
        groups = [item.group for item in candidates]
        cost = WidthCost(groups, {item.group.name: item.order for item in candidates}, present)
        channels_before = sum(item.original * len(item.group.units[0]) for item in candidates)

        def removed(kept: Mapping[str, int]) -> float:
            if name == "macs":
                return 1.0 - cost.macs(kept) / self.before.macs
            if name == "params":
                return 1.0 - cost.params(kept) / self.before.params
            return 1.0 - cost.channels(kept) / channels_before if candidates else 0.0

        if name == "pruning_ratio" and not self.config.global_ranking and candidates:
            kept = even_widths(candidates, goal)
        else:
            narrowest = {item.group.name: item.allowed[-1] for item in candidates}
            if removed(narrowest) < goal - 1e-9:
                raise self._unreachable(name, asked, goal, removed(narrowest))
            kept = choose_widths(
                candidates,
                lambda choice: removed(choice) >= goal - 1e-9,
                global_ranking=self.config.global_ranking,
            )
        if name == "pruning_ratio":
            self.channel_ratio = removed(kept)
        return kept

    def _choose_by_time(
        self, module: nn.Module, candidates: list[Prunable], now: Mapping[str, int], step: int
    ) -> dict[str, int]:
        """Widths for this step's part of the way to the goal, each part the same factor."""
        assert self.time is not None
        missing = [name for name in self.time.groups if name not in now]
        if missing:
            raise ModelError(f"Pruning changed the network's groups: '{missing[0]}' is gone.")
        place = f"step {step}, {len(candidates)} groups"
        if place not in self.time.chosen:
            options = measured_losses(
                module,
                candidates,
                self.batches,
                self.loss,
                self.config.gradient_batches,
                progress=self.progress,
            )
            whole = self.time.of(self.units)
            limit = whole * (self.time.limit_ms / whole) ** (step / self.config.steps)
            chosen = choose_within(self.time, limit, candidates, options, now)
            self.time.chosen[place] = chosen
        chosen = self.time.chosen[place]
        taken = self.time.of({**now, **chosen})
        name, asked = self.config.target
        self.predicted = taken if name == "latency_ms" else asked * self.time.limit_ms / taken
        return chosen

    def _unreachable(self, name: str, asked: float, goal: float, most: float) -> ModelError:
        reasons = "; ".join(f"{group}: {why}" for group, why in list(self.whole.items())[:5])
        more = f" and {len(self.whole) - 5} more" if len(self.whole) > 5 else ""
        return ModelError(
            f"Expected to remove {asked:.1%} of {name}, but at most {most:.1%} can go with "
            f"round_to {self.round_to} and max_ratio {self.config.max_ratio}. "
            f"Left whole: {reasons or 'nothing'}{more}.",
            hint=f"Lower {name}, raise max_ratio, or ignore fewer layers.",
        )

    def _narrowed(
        self, module: nn.Module, graph: Graph, removals: Mapping[str, Sequence[int]]
    ) -> nn.Module:
        narrow = copy.deepcopy(module)
        if removals:
            remove(narrow, graph, removals)
            narrow.eval()
        self.check(narrow)
        return narrow

    def _broken(
        self,
        module: nn.Module,
        graph: Graph,
        removals: Mapping[str, Sequence[int]],
        error: Exception,
    ) -> dict[str, str]:
        """Which of ``removals``, that together fail with ``error``, break the network, and why."""
        names = list(removals)
        if len(names) <= 1:
            return dict.fromkeys(names, f"the network fails without these channels: {error}")
        broken: dict[str, str] = {}
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        for half in halves:
            part = {name: removals[name] for name in half}
            try:
                self._narrowed(module, graph, part)
            except Exception as inner:  # noqa: BLE001 - as above
                broken.update(self._broken(module, graph, part, inner))
        # Each half alone works: they only fail together, so one half stays whole.
        return broken or dict.fromkeys(halves[0], f"the network fails with others: {error}")
