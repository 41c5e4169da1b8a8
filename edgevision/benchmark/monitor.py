"""Watches power, clocks and heat while something runs. Standard library only."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from edgevision.devices.sensors import Sensors, locked

if TYPE_CHECKING:
    from edgevision.devices.sensors import Clock, ClockSensor

TOTAL = "total"
# Heat and limits change slowly, and to read some zones costs the kernel a message to the firmware.
_SLOW = 1.0  # seconds
_FELL = 0.05  # share by which a clock has to fall to be told
_FEWEST = 3  # readings that a median is taken of


@dataclass(frozen=True)
class RailPower:
    """Watts of a rail over a time: the mean, and the highest between two readings."""

    mean_w: float
    peak_w: float


@dataclass(frozen=True)
class ClockRange:
    """MHz of a clock over a time: readings where its unit was switched off do not count."""

    lowest_mhz: float
    mean_mhz: float
    highest_mhz: float


@dataclass(frozen=True)
class Watched:
    """What a ``Monitor`` saw.

    Attributes:
        seconds: between the first reading and the last.
        rails: rail → its power; ``TOTAL`` is the sum of those that ``Sensors.total_of`` names.
        clocks: clock → its range.
        highest_c: of the hottest zone, None where no zone is readable.
        notices: sentences on clocks that fell and heat or current that held the machine back.
    """

    seconds: float
    rails: dict[str, RailPower]
    clocks: dict[str, ClockRange]
    highest_c: float | None
    notices: tuple[str, ...]


class Monitor:
    """Reads sensors in a thread of its own from ``with`` to the end of the block.

    A reading is taken at both ends too, so a block may be shorter than the interval.

    Args:
        sensors: what to read.
        interval: seconds between readings; those of an INA3221 cost a transfer on its bus each.
        power: also read power.
    """

    def __init__(self, sensors: Sensors, *, interval: float = 0.1, power: bool = True) -> None:
        self._sensors = sensors
        self._interval = interval
        self._power = _Power(sensors) if power and sensors.measures_power else None
        self._clocks = [_ClockTrack(sensor) for sensor in sensors.clocks]
        # Of several clusters that governors move: those without work may idle as they like.
        self._fastest: dict[str, list[float]] = {}
        self._highest_c: float | None = None
        self._throttled: dict[str, None] = {}
        self._events: dict[str, int] = {}
        self._events_after: dict[str, int] = {}
        self._slow_at = 0.0
        self._start = self._end = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)

    def __enter__(self) -> Monitor:
        self._events = self._sensors.event_counts()
        self._start = time.perf_counter()
        self._read(slow=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read(slow=True)
        self._events_after = self._sensors.event_counts()
        self._end = time.perf_counter()

    def result(self) -> Watched:
        """What was seen; only after the block."""
        return Watched(
            seconds=self._end - self._start,
            rails=self._power.result() if self._power is not None else {},
            clocks={c.name: c.range() for c in self._clocks if c.seen},
            highest_c=self._highest_c,
            notices=self._notices(),
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._read(slow=time.perf_counter() - self._slow_at >= _SLOW)

    def _read(self, *, slow: bool) -> None:
        if self._power is not None:
            self._power.read()
        fastest: dict[str, float] = {}
        for clock in self._clocks:
            mhz = clock.read(limits=slow)
            if mhz and clock.floats:
                unit = clock.name.partition(" ")[0]
                fastest[unit] = max(mhz, fastest.get(unit, mhz))
        for unit, mhz in fastest.items():
            self._fastest.setdefault(unit, []).append(mhz)
        if slow:
            hottest = max(self._sensors.temperatures().values(), default=None)
            if hottest is not None:
                self._highest_c = max(hottest, self._highest_c or hottest)
            self._throttled.update(dict.fromkeys(self._sensors.throttled_by()))
            self._slow_at = time.perf_counter()

    def _notices(self) -> tuple[str, ...]:
        told = [notice for clock in self._clocks for notice in clock.notices()]
        for unit, readings in self._fastest.items():
            third = len(readings) // 3
            if third < _FEWEST:
                continue
            before, after = median(readings[:third]), median(readings[-third:])
            if after < (1 - _FELL) * before:
                told.append(f"The {unit} clock fell from {before:.0f} to {after:.0f} MHz.")
        if self._throttled:
            told.append(f"Heat held the machine back: {', '.join(self._throttled)}.")
        for name, count in self._events_after.items():
            new = count - self._events.get(name, count)
            if new > 0:
                told.append(
                    f"The supply held the machine back: {new} {name} events (over-current or "
                    "under-voltage)."
                )
        return tuple(told)


class _Power:
    """Power of rails and counters from reading to reading."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._at: float | None = None
        self._watts: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._joules: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, float] = {}

    def read(self) -> None:
        """Add what was used since the last reading: trapezoids of rails, differences of counters.

        A rail that cannot be read at one end of a step has no part in it.
        """
        now = time.perf_counter()
        step = None if self._at is None else now - self._at
        watts, counts = self._sensors.watts(), self._sensors.counts()
        if step:
            used = {
                name: (self._watts[name] + watts[name]) / 2 * step
                for name in watts
                if name in self._watts
            }
            for counter in self._sensors.counters:
                name = counter.name
                if name in counts and name in self._counts:
                    used[name] = counter.joules_between(self._counts[name], counts[name])
            if all(name in used for name in self._sensors.total_of):
                used[TOTAL] = sum(used[name] for name in self._sensors.total_of)
            for name, joules in used.items():
                self._joules[name] = self._joules.get(name, 0.0) + joules
                self._seconds[name] = self._seconds.get(name, 0.0) + step
                self._peaks[name] = max(joules / step, self._peaks.get(name, joules / step))
        self._at, self._watts, self._counts = now, watts, counts

    def result(self) -> dict[str, RailPower]:
        """Rail → power."""
        return {
            name: RailPower(joules / self._seconds[name], self._peaks[name])
            for name, joules in self._joules.items()
        }


class _ClockTrack:
    """Readings of one clock."""

    def __init__(self, sensor: ClockSensor) -> None:
        self.name = sensor.name
        self._sensor = sensor
        self._first: Clock | None = sensor.read()
        self._limit: float | None = None  # the lowest upper limit
        # Whether a governor moves it.
        self.floats = self._first is not None and locked((self._first,)) is False
        self.seen: list[float] = []

    def read(self, *, limits: bool) -> float | None:
        """The clock now, taken down; of the upper limit too where ``limits``."""
        mhz = self._sensor.mhz()
        if mhz:  # 0: switched off
            self.seen.append(mhz)
        high = self._sensor.high_mhz() if limits else None
        if high is not None:
            self._limit = high if self._limit is None else min(high, self._limit)
        return mhz

    def range(self) -> ClockRange:
        """Over all readings, of which there is one at least."""
        return ClockRange(min(self.seen), sum(self.seen) / len(self.seen), max(self.seen))

    def notices(self) -> list[str]:
        """What is wrong whatever the load: its limit fell, or it fell below its lock."""
        high = None if self._first is None else self._first.high_mhz
        if high is None or self._limit is None:
            return []
        if self._limit < (1 - _FELL) * high:
            return [
                f"The highest {self.name} clock allowed fell from {high:.0f} to "
                f"{self._limit:.0f} MHz."
            ]
        low = [mhz for mhz in self.seen if mhz < (1 - _FELL) * high]
        if self.floats or not low:
            return []
        return [
            f"The {self.name} clock is locked at {high:.0f} MHz and was as low as {min(low):.0f} "
            f"MHz in {len(low)} of {len(self.seen)} readings."
        ]
