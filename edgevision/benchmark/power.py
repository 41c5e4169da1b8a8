"""Power of each run, and energy of an image. Standard library only.

Power is that of everything on the rails, the idle machine's included: that is told beside it and
subtracted from nothing. What a carrier board itself uses is on no rail but Thor's VIN.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevision.benchmark.monitor import TOTAL, Monitor, RailPower, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgevision.devices.sensors import Sensors

_RAMP = 0.25  # of a block of calls, before its power is taken: clocks and averages settle
_ROUNDS = 2  # blocks of each run, in turns: A B B A


@dataclass(frozen=True)
class RunPower:
    """Power of one run that had the machine to itself.

    Attributes:
        images, seconds: that the figures are of.
        mean_w, peak_w: total power, that of the idle machine included.
        millijoules_per_image: mean power by time by image.
        rails: rail → its power.
    """

    images: int
    seconds: float
    mean_w: float
    peak_w: float
    millijoules_per_image: float
    rails: dict[str, RailPower]


@dataclass(frozen=True)
class PowerComparison:
    """Result of ``measure_power``.

    Attributes:
        total_of: rails that make the total.
        idle_w: total power before, with everything loaded and nothing running.
        runs: run → its power.
        watched: the blocks, run by run.
    """

    total_of: tuple[str, ...]
    idle_w: float | None
    runs: dict[str, RunPower]
    watched: tuple[Watched, ...]


def measure_power(
    runs: Mapping[str, Callable[[], object]],
    sensors: Sensors,
    *,
    seconds: float,
    images_per_call: int = 1,
    interval: float = 0.1,
    progress: Callable[[str, float], None] | None = None,
) -> PowerComparison | None:
    """Power and energy of each of ``runs``; None where no power is readable.

    Sensors are too slow to tell interleaved calls apart, so each run gets blocks of its own, in the
    order A B B A against drift. A quarter of each block passes before its power is taken.

    Args:
        runs: name → a call without arguments, which has to wait for its result.
        sensors: of this machine.
        seconds: of all blocks and the idle time before them.
        images_per_call: that one call works on.
        interval: seconds between readings.
        progress: called with (phase, share done).
    """
    if not sensors.measures_power or not runs:
        return None
    told = progress or (lambda phase, share: None)
    block = seconds / (_ROUNDS * len(runs) + 1)
    told("power, idle", 0.0)
    with Monitor(sensors, interval=interval) as idle:
        time.sleep(block)
    names = list(runs)
    order = [n for turn in range(_ROUNDS) for n in (names if turn % 2 == 0 else names[::-1])]
    blocks: dict[str, list[tuple[int, Watched]]] = {name: [] for name in names}
    for number, name in enumerate(order):
        told("power", (number + 1) / (len(order) + 1))
        blocks[name].append(_block(runs[name], sensors, block, interval))
    told("power", 1.0)
    idle_total = idle.result().rails.get(TOTAL)
    powers = {name: _run_power(found, images_per_call) for name, found in blocks.items()}
    return PowerComparison(
        total_of=sensors.total_of,
        idle_w=None if idle_total is None else idle_total.mean_w,
        runs={name: power for name, power in powers.items() if power is not None},
        watched=tuple(watched for found in blocks.values() for _, watched in found),
    )


def _block(
    run: Callable[[], object], sensors: Sensors, seconds: float, interval: float
) -> tuple[int, Watched]:
    """Calls that were made, and what was seen meanwhile."""
    begin = time.perf_counter() + _RAMP * seconds
    while time.perf_counter() < begin:
        run()
    calls, end = 0, begin + (1 - _RAMP) * seconds
    with Monitor(sensors, interval=interval) as monitor:
        while calls == 0 or time.perf_counter() < end:
            run()
            calls += 1
    return calls, monitor.result()


def _run_power(blocks: list[tuple[int, Watched]], images_per_call: int) -> RunPower | None:
    whole = [(calls, seen) for calls, seen in blocks if TOTAL in seen.rails]
    seconds = sum(seen.seconds for _, seen in whole)
    if not whole or seconds <= 0:
        return None
    images = images_per_call * sum(calls for calls, _ in whole)
    rails = {}
    for name in whole[0][1].rails:
        parts = [(seen.rails[name], seen.seconds) for _, seen in whole if name in seen.rails]
        joules = sum(rail.mean_w * time_ for rail, time_ in parts)
        rails[name] = RailPower(
            joules / sum(time_ for _, time_ in parts), max(rail.peak_w for rail, _ in parts)
        )
    total = rails.pop(TOTAL)
    return RunPower(
        images=images,
        seconds=seconds,
        mean_w=total.mean_w,
        peak_w=total.peak_w,
        millijoules_per_image=1000 * total.mean_w * seconds / images,
        rails=rails,
    )
