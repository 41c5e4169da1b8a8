"""How a Jetson is set up, in words. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgevision.devices.jetson import Jetson, advice, read_jetson
from edgevision.devices.sensors import Clock, Sensors, find_sensors, locked
from edgevision.devices.sysfs import ROOT


@dataclass(frozen=True)
class JetsonSetup:
    """A Jetson for people.

    Attributes:
        name, part_number: of the module.
        release: L4T and JetPack.
        jetpack: None where it is not known.
        setting: power mode, clocks, heat and power now.
        advice: what makes it slower or less steady than it could be, each with its command.
    """

    name: str
    part_number: str | None
    release: str
    jetpack: str | None
    setting: tuple[str, ...]
    advice: tuple[str, ...]


def jetson_setup(root: Path = ROOT) -> JetsonSetup | None:
    """The Jetson whose files are below ``root``, None where they are of no Jetson."""
    jetson = read_jetson(root)
    if jetson is None:
        return None
    sensors = find_sensors(root)
    return JetsonSetup(
        name=jetson.name,
        part_number=jetson.part_number,
        release=jetson.release,
        jetpack=jetson.jetpack,
        setting=tuple(_setting(jetson, sensors)),
        advice=tuple(advice(jetson, locked(sensors.read_clocks()))),
    )


def _setting(jetson: Jetson, sensors: Sensors) -> list[str]:
    mode, clocks, heat = jetson.power_mode, sensors.read_clocks(), sensors.temperatures()
    watts, throttled = sensors.watts(), sensors.throttled_by()
    total = [watts[name] for name in sensors.total_of if name in watts]
    found = [f"Power {mode}" if mode and mode.name is None else f"Power mode {mode or 'unknown'}"]
    found += [_limits(clock) for clock in clocks]
    if heat:
        hottest = max(heat, key=heat.__getitem__)
        found.append(f"{heat[hottest]:.0f} °C ({hottest})")
    if total:
        found.append(f"{sum(total):.1f} W ({', '.join(sensors.total_of)})")
    if throttled:
        found.append(f"held back by heat: {', '.join(throttled)}")
    return found


def _limits(clock: Clock) -> str:
    if clock.low_mhz is None or clock.high_mhz is None:
        return f"{clock.name} {clock.mhz:.0f} MHz"
    if clock.low_mhz == clock.high_mhz:
        return f"{clock.name} locked at {clock.high_mhz:.0f} MHz"
    return f"{clock.name} {clock.low_mhz:.0f} to {clock.high_mhz:.0f} MHz"
