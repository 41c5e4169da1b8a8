"""What the kernel measures: power rails, clocks, temperatures, throttling. Standard library only.

Everything is looked for once (``find_sensors``) and then read as often as wanted, from files that
need no rights and no program. What a machine does not have, or hides, is left out.

Sources: the kernel's ``ina3221``, ``ina238``, ``powercap``, ``cpufreq``, ``devfreq`` and
``thermal`` interfaces, and NVIDIA's Jetson Linux Developer Guide (rails, ``oc*_event_cnt``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgevision.devices import sysfs

# Rails through which all the power of a module, or of the whole board (VIN, Thor), flows.
_INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
# On AGX Orin the memory's rail is fed from VIN_SYS_5V0, so a sum would count it twice.
_INSIDE_VIN_SYS = "VDDQ_VDD2_1V8AO"
_GPU = re.compile(r"gpu-gpc-0|gpu|(.*\.)(gpu|gv11b|ga10b|gb10b)")
_HEAT = re.compile(r"(.*-alert|(thermal-)?cpufreq-.*|(thermal-)?devfreq-.*|Processor)")
_MOST_CLUSTERS = 16  # CPU clocks that are read: a server has one for each of its many cores


@dataclass(frozen=True)
class Rail:
    """A power rail. ``paths`` multiply to microwatts: mV and mA of an INA3221, µW of an INA238."""

    name: str
    paths: tuple[Path, ...]

    def watts(self) -> float | None:
        """The power now. Slightly negative on a rail that is off, by the sensor's offset."""
        product = 1
        for path in self.paths:
            value = sysfs.integer(path)
            if value is None:
                return None
            product *= value
        return product / 1e6


@dataclass(frozen=True)
class EnergyCounter:
    """A RAPL domain: microjoules used so far, from 0 again past ``range_uj``."""

    name: str
    path: Path
    range_uj: int

    def joules_between(self, before: int, after: int) -> float:
        """Energy from one reading of ``path`` to the next, at most one wraparound apart."""
        return ((after - before) if after >= before else (after - before + self.range_uj)) / 1e6


@dataclass(frozen=True)
class Clock:
    """A clock in MHz: now, and the limits between which the governor may move it.

    ``mhz`` is 0 where the unit is switched off.
    """

    name: str
    mhz: float
    low_mhz: float | None = None
    high_mhz: float | None = None
    governor: str | None = None


@dataclass(frozen=True)
class ClockSensor:
    """Files of a clock; ``per_mhz`` of their unit make a MHz."""

    name: str
    current: Path
    low: Path | None
    high: Path | None
    governor: Path | None
    per_mhz: float

    def mhz(self) -> float | None:
        """The clock now."""
        return self._scaled(self.current)

    def high_mhz(self) -> float | None:
        """The highest that is allowed now; power modes and heat lower it."""
        return self._scaled(self.high)

    def read(self) -> Clock | None:
        """The clock with its limits, None where it cannot be read any more."""
        mhz = self.mhz()
        if mhz is None:
            return None
        governor = sysfs.word(self.governor) if self.governor else None
        return Clock(self.name, mhz, self._scaled(self.low), self.high_mhz(), governor)

    def _scaled(self, path: Path | None) -> float | None:
        value = sysfs.integer(path) if path is not None else None
        return None if value is None or value < 0 else value / self.per_mhz


@dataclass(frozen=True)
class Fan:
    """Duty cycle in percent and turns a minute, each None where it is not told."""

    percent: float | None
    rpm: int | None


@dataclass(frozen=True)
class Sensors:
    """What was found.

    Attributes:
        rails, counters: of power. A machine has one kind or the other.
        total_of: those of them that add up to the total; no rail is in it twice.
        clocks: CPU clusters, unless they are many; GPU; the memory's (EMC) where it may be read.
        zones: (name, file in millidegrees).
        cooling: (name, file) that are above 0 while heat makes the machine slower.
        events: (name, file) that count over-current and under-voltage events since the boot.
        fan_pwm, fan_rpm: files of the fan.
    """

    rails: tuple[Rail, ...] = ()
    counters: tuple[EnergyCounter, ...] = ()
    total_of: tuple[str, ...] = ()
    clocks: tuple[ClockSensor, ...] = ()
    zones: tuple[tuple[str, Path], ...] = ()
    cooling: tuple[tuple[str, Path], ...] = ()
    events: tuple[tuple[str, Path], ...] = ()
    fan_pwm: Path | None = None
    fan_rpm: Path | None = None

    @property
    def measures_power(self) -> bool:
        """Whether there is a total power to read."""
        return bool(self.total_of)

    @property
    def any(self) -> bool:
        """Whether there is anything to watch during a measurement."""
        return bool(self.total_of or self.clocks or self.zones or self.cooling or self.events)

    def read_clocks(self) -> tuple[Clock, ...]:
        """The clocks now."""
        found = (sensor.read() for sensor in self.clocks)
        return tuple(clock for clock in found if clock is not None)

    def temperatures(self) -> dict[str, float]:
        """Zone → °C, without those that are switched off."""
        found = {name: sysfs.integer(path) for name, path in self.zones}
        return {
            name: value / 1000
            for name, value in found.items()
            if value is not None and -100_000 < value < 300_000
        }

    def throttled_by(self) -> tuple[str, ...]:
        """Names of the cooling devices that hold the machine back now."""
        return tuple(name for name, path in self.cooling if (sysfs.integer(path) or 0) > 0)

    def event_counts(self) -> dict[str, int]:
        """Event → times since the boot."""
        found = {name: sysfs.integer(path) for name, path in self.events}
        return {name: value for name, value in found.items() if value is not None}

    def watts(self) -> dict[str, float]:
        """Rail → power now; counters tell it over a time alone."""
        found = {rail.name: rail.watts() for rail in self.rails}
        return {name: value for name, value in found.items() if value is not None}

    def counts(self) -> dict[str, int]:
        """Energy counter → its reading in microjoules."""
        found = {counter.name: sysfs.integer(counter.path) for counter in self.counters}
        return {name: value for name, value in found.items() if value is not None}

    def fan(self) -> Fan | None:
        """The fan now, None where there is none."""
        duty = sysfs.integer(self.fan_pwm) if self.fan_pwm else None
        rpm = sysfs.integer(self.fan_rpm) if self.fan_rpm else None
        if duty is None and rpm is None:
            return None
        return Fan(None if duty is None else round(100 * duty / 255, 1), rpm)


def locked(clocks: tuple[Clock, ...]) -> bool | None:
    """Whether governors are left no choice, as after ``jetson_clocks``: low and high limit agree.

    What the clock is now does not count: a GPU that is switched off reads 0, and heat lowers locked
    clocks too. None where no clock tells its limits.
    """
    told = [c for c in clocks if c.low_mhz is not None and c.high_mhz is not None]
    return all(c.low_mhz == c.high_mhz for c in told) if told else None


def find_sensors(root: Path = sysfs.ROOT) -> Sensors:
    """Look for everything below ``root``; a rail or counter that cannot be read now is left out."""
    rails = _rails(root)
    counters = () if rails else _counters(root)
    hwmon = sysfs.children(root / "sys/class/hwmon", "hwmon")
    named = {sysfs.word(chip / "name"): chip for chip in reversed(hwmon)}
    pwm, tach = named.get("pwmfan"), named.get("pwm_tach")
    return Sensors(
        rails=rails,
        counters=counters,
        total_of=_total_of(rails) or _packages(counters),
        clocks=_clocks(root),
        zones=_named(root / "sys/class/thermal", "thermal_zone", "temp", skip="PMIC"),
        cooling=tuple(
            (name, path)
            for name, path in _named(root / "sys/class/thermal", "cooling_device", "cur_state")
            if _HEAT.fullmatch(name)
        ),
        events=tuple(
            (path.name.partition("_")[0], path)
            for chip in hwmon
            for path in sysfs.children(chip, "oc")
            if re.fullmatch(r"oc[0-9]+_event_cnt", path.name)
        ),
        fan_pwm=None if pwm is None else pwm / "pwm1",
        fan_rpm=None if tach is None else _first(tach / "rpm", tach / "fan1_input"),
    )


def _rails(root: Path) -> tuple[Rail, ...]:
    found: dict[str, Rail] = {}
    for chip in _power_chips(root):
        kind = sysfs.word(chip / "name")
        # Channel 7 of an INA3221 is the sum of the others' shunt voltages.
        for channel in (1, 2, 3) if kind == "ina3221" else ():
            label = sysfs.word(chip / f"in{channel}_label")
            if label is not None and label.upper() != "NC":
                paths = (chip / f"in{channel}_input", chip / f"curr{channel}_input")
                found.setdefault(label, Rail(label, paths))
        if kind == "ina238":  # Thor's only, at the input of the board
            found.setdefault("VIN", Rail("VIN", (chip / "power1_input",)))
    return tuple(rail for rail in found.values() if rail.watts() is not None)


def _power_chips(root: Path) -> list[Path]:
    chips = sysfs.children(root / "sys/class/hwmon", "hwmon")
    if not any(sysfs.word(chip / "name") == "ina3221" for chip in chips):
        for device in sysfs.children(root / "sys/bus/i2c/drivers/ina3221"):
            chips += sysfs.children(device / "hwmon", "hwmon")
    return chips


def _total_of(rails: tuple[Rail, ...]) -> tuple[str, ...]:
    names = [rail.name for rail in rails]
    for name in _INPUT_RAILS:
        if name in names:
            return (name,)
    if "VIN_SYS_5V0" in names:
        names = [name for name in names if name != _INSIDE_VIN_SYS]
    return tuple(names)


def _counters(root: Path) -> tuple[EnergyCounter, ...]:
    found = []
    folder = root / "sys/class/powercap"
    names: dict[str, str] = {}
    for domain in sysfs.children(folder, "intel-rapl:"):
        name = sysfs.word(domain / "name")
        most = sysfs.integer(domain / "max_energy_range_uj")
        if name is None or most is None or sysfs.integer(domain / "energy_uj") is None:
            continue
        parent = names.get(domain.name.rpartition(":")[0])
        names[domain.name] = name if parent is None else f"{parent}/{name}"
        found.append(EnergyCounter(names[domain.name], domain / "energy_uj", most))
    return tuple(found)


def _packages(counters: tuple[EnergyCounter, ...]) -> tuple[str, ...]:
    """Packages and their memory, which is beside them; cores are inside, and psys is around all."""
    return tuple(
        counter.name
        for counter in counters
        if re.fullmatch(r"package-[0-9]+(-die-[0-9]+)?(/dram)?", counter.name)
    )


def _clocks(root: Path) -> tuple[ClockSensor, ...]:
    found = []
    for policy in sysfs.children(root / "sys/devices/system/cpu/cpufreq", "policy"):
        cores = (sysfs.word(policy / "affected_cpus") or policy.name[len("policy") :]).split()
        name = f"CPU {cores[0]}" if len(cores) == 1 else f"CPU {cores[0]}-{cores[-1]}"
        low, high = policy / "scaling_min_freq", policy / "scaling_max_freq"
        current, governor = policy / "scaling_cur_freq", policy / "scaling_governor"
        found.append(ClockSensor(name, current, low, high, governor, 1e3))
    if len(found) > _MOST_CLUSTERS:
        found.clear()
    for device in sysfs.children(root / "sys/class/devfreq"):
        if _GPU.fullmatch(device.name):
            low, high, governor = device / "min_freq", device / "max_freq", device / "governor"
            found.append(ClockSensor("GPU", device / "cur_freq", low, high, governor, 1e6))
            break
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"  # readable by the superuser alone
    found.append(ClockSensor("EMC", emc, None, None, None, 1e6))
    return tuple(sensor for sensor in found if sensor.mhz() is not None)


def _named(
    folder: Path, prefix: str, file: str, skip: str | None = None
) -> tuple[tuple[str, Path], ...]:
    found = []
    for entry in sysfs.children(folder, prefix):
        name = sysfs.word(entry / "type")
        if name is not None and (skip is None or skip not in name):
            found.append((name, entry / file))
    return tuple(found)


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if sysfs.integer(path) is not None), None)
