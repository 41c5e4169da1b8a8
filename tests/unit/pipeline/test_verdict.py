from __future__ import annotations

import pytest

from edgevision.errors import AccuracyBudgetError, NotFasterError
from edgevision.pipeline.verdict import Candidate, Speed, judge
from edgevision.recipe import VerifySection

FAST = Speed(latency_p50_ms=1.0, speedup=3.0, low=2.9, high=3.1)
SLOW = Speed(latency_p50_ms=4.0, speedup=0.9, low=0.85, high=0.95)
EVEN = Speed(latency_p50_ms=3.0, speedup=1.02, low=0.98, high=1.06)


def test_the_fastest_candidate_within_the_budget_ships() -> None:
    medium = Speed(latency_p50_ms=2.0, speedup=1.5, low=1.4, high=1.6)
    verdict = judge(
        91.0,
        [Candidate("pruned", 90.9, medium), Candidate("int8", 90.6, FAST)],
        VerifySection(max_accuracy_drop=0.5),
    )
    assert (verdict.passed, verdict.exit_code, verdict.shipped) == (True, 0, "int8")
    assert verdict.error() is None


def test_a_fast_candidate_beyond_the_budget_does_not_ship() -> None:
    verdict = judge(
        91.0,
        [Candidate("int8", 89.0, FAST), Candidate("pruned", 90.9, EVEN)],
        VerifySection(max_accuracy_drop=0.5),
    )
    assert (verdict.exit_code, verdict.shipped) == (5, "pruned")
    assert "Faster candidates lose too much accuracy" in verdict.reasons[-1]


def test_nothing_within_the_budget_is_exit_code_4_with_the_best_named() -> None:
    verdict = judge(
        91.0,
        [Candidate("int8", 80.0, FAST), Candidate("pruned", 85.0, FAST)],
        VerifySection(max_accuracy_drop=0.5),
    )
    assert (verdict.passed, verdict.exit_code, verdict.shipped) == (False, 4, "pruned")
    assert isinstance(verdict.error(), AccuracyBudgetError)
    assert "85.00 %, a drop of 6.00 points where 0.5 are allowed" in verdict.reasons[0]


def test_beyond_the_budget_what_is_as_fast_as_asked_comes_first() -> None:
    candidates = [Candidate("int8", 80.0, FAST), Candidate("pruned", 85.0, EVEN)]
    asked = judge(91.0, candidates, VerifySection(max_accuracy_drop=0.5, speedup=2))
    assert (asked.exit_code, asked.shipped) == (4, "int8")
    too_much = judge(91.0, candidates, VerifySection(max_accuracy_drop=0.5, speedup=9))
    assert (too_much.exit_code, too_much.shipped) == (4, "pruned")


def test_who_asks_for_less_than_fp32_s_speed_gets_it() -> None:
    verdict = judge(91.0, [Candidate("int8", 91.0, SLOW)], VerifySection(speedup=0.5))
    assert (verdict.passed, verdict.exit_code) == (True, 0)


@pytest.mark.parametrize(
    ("speed", "bounds", "message"),
    [
        (SLOW, VerifySection(), "Not faster than FP32"),
        (EVEN, VerifySection(), "Not faster than FP32"),
        (FAST, VerifySection(speedup=4), "4 times FP32 wanted, measured 3.00 times"),
        (FAST, VerifySection(latency_ms=0.5), "p50 1.000 ms, at most 0.5 ms wanted"),
    ],
)
def test_too_slow_is_exit_code_5(speed: Speed, bounds: VerifySection, message: str) -> None:
    verdict = judge(91.0, [Candidate("int8", 91.0, speed)], bounds)
    assert verdict.exit_code == 5
    assert isinstance(verdict.error(), NotFasterError)
    assert message in verdict.reasons[0]


def test_a_drop_that_is_exactly_the_budget_passes() -> None:
    assert judge(90.1, [Candidate("a", 89.6, FAST)], VerifySection(max_accuracy_drop=0.5)).passed


def test_a_speed_that_was_not_measured_is_not_called_proven() -> None:
    verdict = judge(91.0, [Candidate("int8", 91.0, None)], VerifySection())
    assert (verdict.passed, verdict.proven_speed) == (True, False)


def test_a_busy_machine_proves_no_speed() -> None:
    busy = Speed(latency_p50_ms=1.0, speedup=100.0, low=90.0, high=110.0, steady=False)
    verdict = judge(91.0, [Candidate("int8", 91.0, busy)], VerifySection())
    assert (verdict.passed, verdict.proven_speed) == (True, False)
    assert "this machine was busy" in verdict.reasons[0]


def test_too_slow_on_a_busy_machine_says_to_measure_again() -> None:
    busy = Speed(latency_p50_ms=4.0, speedup=0.9, low=0.8, high=0.95, steady=False)
    verdict = judge(91.0, [Candidate("int8", 91.0, busy)], VerifySection())
    assert verdict.exit_code == 5
    assert "busy" in verdict.reasons[-1]


def test_an_asked_speed_holds_by_the_interval_not_by_the_point() -> None:
    wide = Speed(latency_p50_ms=1.0, speedup=2.01, low=1.6, high=2.4)
    verdict = judge(91.0, [Candidate("int8", 91.0, wide)], VerifySection(speedup=2))
    assert verdict.exit_code == 5


def test_an_asked_speed_that_cannot_be_measured_is_not_passed() -> None:
    verdict = judge(91.0, [Candidate("int8", 91.0, None)], VerifySection(latency_ms=4))
    assert (verdict.passed, verdict.exit_code) == (False, 5)
    assert "does not run on this machine" in verdict.reasons[0]


@pytest.mark.parametrize("trainable", [True, False])
def test_an_onnx_file_is_not_advised_to_be_pruned(trainable: bool) -> None:
    slow = judge(
        91.0, [Candidate("int8", 91.0, FAST)], VerifySection(speedup=99), trainable=trainable
    )
    bad = judge(91.0, [Candidate("int8", 50.0, FAST)], VerifySection(), trainable=trainable)
    for verdict in (slow, bad):
        assert ("rune" in verdict.reasons[-1]) == trainable
