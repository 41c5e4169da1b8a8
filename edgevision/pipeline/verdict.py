"""The verdict: which candidate ships, and if none may, why not and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from edgevision.errors import AccuracyBudgetError, EdgeVisionError, NotFasterError
from edgevision.recipe import VerifySection

_NOT_MEASURED = "Speed is not proven: what the target runs does not run on this machine."
_BUSY = (
    "Speed is not proven: this machine was busy while it was measured. "
    "Measure again when it is quiet: edgevision bench."
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
        shipped: the candidate's name; when nothing passed, the best there is.
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


def judge(baseline: float, candidates: list[Candidate], bounds: VerifySection) -> Verdict:
    """Choose the fastest candidate within the accuracy budget.

    Args:
        baseline: the FP32 accuracy in percent.
        candidates: at least one, measured on the same images.
        bounds: what the recipe promises.
    """
    allowed = bounds.max_accuracy_drop
    # Rounded as it is shown, so that a drop printed as 0.50 never fails a budget of 0.5.
    within = [c for c in candidates if round(baseline - c.accuracy, 4) <= allowed]
    if not within:
        best = max(candidates, key=lambda c: c.accuracy)
        return Verdict(
            False,
            best.speed is not None,
            4,
            best.name,
            (
                f"Accuracy budget not met: FP32 {baseline:.2f} %, best candidate '{best.name}' "
                f"{best.accuracy:.2f} %, a drop of {baseline - best.accuracy:.2f} points where "
                f"{allowed:g} are allowed.",
                "Prune less, fine-tune longer, calibrate on more images, or allow a larger "
                "--max-accuracy-drop.",
            ),
        )
    measured = [c for c in within if c.speed is not None]
    if not measured:
        return Verdict(True, False, 0, within[0].name, (_NOT_MEASURED,))
    best = max(measured, key=lambda c: c.speed.speedup if c.speed else 0.0)
    assert best.speed is not None
    faults = _speed_faults(best.speed, bounds)
    if faults:
        advice = "Prune more (--prune-macs), or ask for less speed."
        if len(measured) < len(candidates):
            advice += " Faster candidates lose too much accuracy."
        if not best.speed.steady:
            advice = _BUSY
        return Verdict(False, best.speed.steady, 5, best.name, (*faults, advice))
    steady = best.speed.steady
    return Verdict(True, steady, 0, best.name, () if steady else (_BUSY,))


def _speed_faults(speed: Speed, bounds: VerifySection) -> list[str]:
    faults = []
    got = f"measured {speed.speedup:.2f} times ({speed.low:.2f} to {speed.high:.2f})"
    if bounds.speedup is not None and speed.speedup < bounds.speedup:
        faults.append(f"Not as fast as asked: {bounds.speedup:g} times FP32 wanted, {got}.")
    elif speed.low <= 1.0:
        faults.append(f"Not faster than FP32 on the target: {got}.")
    if bounds.latency_ms is not None and speed.latency_p50_ms > bounds.latency_ms:
        faults.append(
            f"Latency bound not met: p50 {speed.latency_p50_ms:.3f} ms, "
            f"at most {bounds.latency_ms:g} ms wanted."
        )
    return faults
