"""The verdict: which candidate ships, and if none may, why not and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from edgevision.errors import AccuracyBudgetError, EdgeVisionError, NotFasterError
from edgevision.recipe import VerifySection

_NOT_MEASURED = "Speed is not proven: what the target runs does not run on this machine."
_BUSY = (
    "Speed is not proven: this machine was busy while it was measured. "
    "Run the same command again when it is quiet: only this is measured anew."
)


@dataclass(frozen=True)
class Speed:
    """Device latency against the FP32 baseline, measured interleaved.

    ``speedup`` is baseline over candidate by median, with its 95 % bootstrap interval. ``steady``
    is False where the machine was busy: a median far above the fastest run, on either side.
    """

    latency_p50_ms: float
    speedup: float
    low: float
    high: float
    steady: bool = True


@dataclass(frozen=True)
class Candidate:
    """One artifact that might ship. ``accuracy`` in percent; ``speed`` None where not measured."""

    name: str
    accuracy: float
    speed: Speed | None


@dataclass(frozen=True)
class Verdict:
    """What was proven.

    Attributes:
        passed: the shipped candidate keeps every bound that could be measured.
        proven_speed: the latency was measured on this machine, and the machine was quiet.
        exit_code: 0, 4 or 5.
        shipped: the candidate's name. When none keeps the accuracy, the most accurate of those that
            are as fast as asked, or of all where none is.
        reasons: why it failed or what stayed unproven, one line each, then what to change.
    """

    passed: bool
    proven_speed: bool
    exit_code: int
    shipped: str
    reasons: tuple[str, ...]

    def error(self) -> EdgeVisionError | None:
        """The exception of a verdict that is not passed."""
        if self.passed:
            return None
        kind = AccuracyBudgetError if self.exit_code == 4 else NotFasterError
        return kind(self.reasons[0], hint="\n".join(self.reasons[1:]))


def keeps_budget(baseline: float, accuracy: float, allowed: float) -> bool:
    """Whether a drop from ``baseline`` to ``accuracy``, in percent, is at most ``allowed``.

    Rounded first, so that 90.1 to 89.6 does not fail a budget of 0.5 by a rounding error.
    """
    return round(baseline - accuracy, 4) <= allowed


def judge(
    baseline: float, candidates: list[Candidate], bounds: VerifySection, *, trainable: bool = True
) -> Verdict:
    """Choose the fastest candidate within the accuracy budget.

    Args:
        baseline: the FP32 accuracy in percent.
        candidates: at least one, measured on the same images.
        bounds: what the recipe promises.
        trainable: whether the network can be pruned and trained; an ONNX file cannot.
    """
    allowed = bounds.max_accuracy_drop
    within = [c for c in candidates if keeps_budget(baseline, c.accuracy, allowed)]
    if not within:
        best = max(_quick(candidates, bounds) or candidates, key=lambda c: c.accuracy)
        return Verdict(
            False,
            best.speed is not None,
            4,
            best.name,
            (
                f"Accuracy budget not met: FP32 {baseline:.2f} %, best candidate '{best.name}' "
                f"{best.accuracy:.2f} %, a drop of {baseline - best.accuracy:.2f} points where "
                f"{allowed:g} are allowed.",
                ("Prune less, fine-tune longer, " if trainable else "Try ")
                + "more calibration images, or allow a larger --max-accuracy-drop.",
            ),
        )
    measured = [c for c in within if c.speed is not None]
    if not measured:
        asked = bounds.speedup is not None or bounds.latency_ms is not None
        code = 5 if asked else 0
        return Verdict(not asked, False, code, within[0].name, (_NOT_MEASURED,))
    best = max(measured, key=lambda c: c.speed.speedup if c.speed else 0.0)
    assert best.speed is not None
    faults = _speed_faults(best.speed, bounds)
    if faults:
        advice = "Prune more (--prune-macs), or ask" if trainable else "Ask"
        advice += " for less speed."
        if len(measured) < len(candidates):
            advice += " Faster candidates lose too much accuracy."
        if not best.speed.steady:
            advice = _BUSY
        return Verdict(False, best.speed.steady, 5, best.name, (*faults, advice))
    steady = best.speed.steady
    return Verdict(True, steady, 0, best.name, () if steady else (_BUSY,))


def _quick(candidates: list[Candidate], bounds: VerifySection) -> list[Candidate]:
    """Those that keep the bounds on speed."""
    return [c for c in candidates if c.speed is not None and not _speed_faults(c.speed, bounds)]


def _speed_faults(speed: Speed, bounds: VerifySection) -> list[str]:
    faults = []
    got = f"measured {speed.speedup:.2f} times ({speed.low:.2f} to {speed.high:.2f})"
    if bounds.speedup is not None and speed.low < bounds.speedup:
        faults.append(f"Not as fast as asked: {bounds.speedup:g} times FP32 wanted, {got}.")
    elif bounds.speedup is None and speed.low <= 1.0:
        faults.append(f"Not faster than FP32 on the target: {got}.")
    if bounds.latency_ms is not None and speed.latency_p50_ms > bounds.latency_ms:
        faults.append(
            f"Latency bound not met: p50 {speed.latency_p50_ms:.3f} ms, "
            f"at most {bounds.latency_ms:g} ms wanted."
        )
    return faults
