"""speeds: how fast each point of a front is to be, from what the profile stage measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgevision.errors import ModelError, UsageError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage
from edgevision.pipeline.timing import CLOSE, latency_model, measured_times, time_goal

SPEEDS = "speeds.json"
FARTHEST = 4.0  # times INT8's speed, where nobody says otherwise
_SHARE = (
    0.9  # of the way to the narrowest network, in logarithm: there is no choice left at its end
)


class Speeds(Stage[Job]):
    """Outputs ``speeds.json``: times FP32's speed for each point, the first is that of INT8 alone.

    Stored, so that a front that is carried on is the same one: measured anew, times would differ.
    """

    name = "speeds"

    def __init__(self, points: int, fastest: float | None) -> None:
        self._points, self._fastest = points, fastest

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "profile": job.key("profile"),
            "points": self._points,
            "fastest": self._fastest,
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint

        assert job.prune is not None
        job.progress("speeds of the front", 0, 1, "")
        module, _ = load_checkpoint(job.done("baseline").path("checkpoint"))
        goal = time_goal(job, latency_model(job, module), module, work)
        allowed = measured_times(job).allowed
        ends = np.array([[widths[end] for widths in allowed] for end in (0, -1)], dtype=np.int64)
        whole, narrowest = goal.milliseconds(ends).tolist()
        fp32 = goal.limit_ms * job.prune.target[1]
        speeds = spread_speeds(fp32 / whole, fp32 / narrowest, self._points, self._fastest)
        for path in work.glob("candidate*.onnx"):
            path.unlink()
        write_json(
            work / SPEEDS,
            {
                "fp32_ms": fp32,
                "int8_ms": whole,
                "narrowest_ms": narrowest,
                "speeds": list(speeds),
            },
        )
        job.progress("speeds of the front", 1, 1, ", ".join(f"{speed:g}" for speed in speeds))


def spread_speeds(
    whole: float, reach: float, points: int, fastest: float | None = None
) -> tuple[float, ...]:
    """(points,) times FP32's speed in equal ratios, from INT8 alone to the fastest.

    Without ``fastest`` that is four times INT8's speed, or nine tenths of the way (in logarithm) to
    the narrowest network, whichever is slower.

    Args:
        whole: speed of INT8 alone; where it is below FP32's, the ratios start from FP32's.
        reach: predicted speed of the narrowest network that may be chosen.
        points: at least 2.
        fastest: of the last point.

    Raises:
        UsageError: ``fastest`` is not above INT8's speed.
        ModelError: ``fastest`` is beyond ``reach``, or the points would lie so close together that
            measuring cannot tell them apart.
    """
    start = max(whole, 1.0)
    if fastest is not None and fastest <= start:
        raise UsageError(
            f"Expected a fastest point above INT8 alone, which is {whole:.2f} times as fast as "
            f"FP32; got --prune-speedup {fastest:g}.",
            hint=f"Ask for more, e.g. --prune-speedup {2 * start:.1f}, or leave it out.",
        )
    if fastest is not None and fastest > reach:
        raise ModelError(
            f"Expected a fastest point of at most {reach:.2f} times FP32's speed, which is what "
            f"the narrowest network that may be chosen is predicted to have; got {fastest:g}.",
            hint="Ask for less, raise prune.max_ratio, or ignore fewer layers.",
        )
    far = max(reach / start, 1.0) ** _SHARE
    last = fastest if fastest is not None else start * min(FARTHEST, far)
    step = (last / start) ** (1 / (points - 1))
    if step < 1 / (1 - CLOSE):
        most = int(np.log(last / start) / -np.log(1 - CLOSE)) + 1
        raise ModelError(
            f"{points} points between {start:.2f} and {last:.2f} times FP32's speed lie "
            f"{100 * (step - 1):.1f} % apart, which measuring cannot tell: at least "
            f"{100 * (1 / (1 - CLOSE) - 1):.1f} % are wanted.",
            hint=(
                f"Ask for at most --front {most}, or "
                if most >= 2
                else "Raise prune.max_ratio, or "
            )
            + "compress to one bundle without --front.",
        )
    return tuple(round(start * step**k, 2) for k in range(points))
