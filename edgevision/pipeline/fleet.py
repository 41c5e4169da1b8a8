"""Several devices measured side by side: what ``edgevision bench --fleet`` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevision.benchmark import BenchConfig
from edgevision.benchmark.report_schema import Report
from edgevision.errors import EdgeVisionError, RecipeError
from edgevision.pipeline.bench import bench_bundle
from edgevision.remote import Address, connect

_LARGEST = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = "a mapping of names to ssh://user@host, or to {device: ssh://…, threads: N}"


class FleetDevice(BaseModel):
    """One device of a fleet: its address, and CPU threads of what is measured there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    threads: int | None = Field(None, ge=1)


def read_fleet(path: str | Path) -> dict[str, FleetDevice]:
    """The devices named in the YAML file ``path``, by name.

    Raises:
        RecipeError: it cannot be read or holds something else; says what.
        UsageError: an address is none.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise RecipeError(f"{file} is larger than {_LARGEST >> 20} MB: not a list of devices.")
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(
            f"{file}: {' '.join(str(error).split())}", hint=f"Wanted: {_FORM}."
        ) from error
    if not isinstance(values, dict) or not values:
        raise RecipeError(f"{file} names no devices.", hint=f"Wanted: {_FORM}.")
    fleet = {}
    for name, told in values.items():
        if not _NAME.fullmatch(str(name)):  # it becomes the name of a folder
            raise RecipeError(f"{file}: a device is named by letters, digits, . _ -, got {name!r}.")
        try:
            given = {"device": told} if isinstance(told, str) else told
            fleet[str(name)] = FleetDevice.model_validate(given)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, (name, *fault["loc"])))
            raise RecipeError(
                f"{file}: {where}: {fault['msg']}.", hint=f"Wanted: {_FORM}."
            ) from error
        Address.parse(fleet[str(name)].device)
    return fleet


def bench_fleet(
    bundle: str | Path,
    fleet: Mapping[str, FleetDevice],
    *,
    artifact: str | None = None,
    against: str = "baseline",
    batch: int = 1,
    config: BenchConfig | None = None,
    progress: Callable[[str, str, float], None] | None = None,
) -> dict[str, Report | EdgeVisionError]:
    """``bench_bundle`` on every device of ``fleet`` at the same time.

    Args:
        progress: called with (device, phase, share done), from a thread of each device.

    Returns:
        By name, in the order of ``fleet``: the report, or why there is none. One device that fails
        does not keep the others from being measured.
    """

    def one(name: str) -> Report | EdgeVisionError:
        device = fleet[name]

        def told(phase: str, share: float) -> None:
            if progress is not None:
                progress(name, phase, share)

        try:
            with connect(device.device) as machine:
                return bench_bundle(
                    bundle,
                    artifact=artifact,
                    against=against,
                    batch=batch,
                    threads=device.threads,
                    config=config,
                    machine=machine,
                    progress=told,
                )
        except EdgeVisionError as error:
            return error

    with ThreadPoolExecutor(max_workers=len(fleet)) as pool:
        return dict(zip(fleet, pool.map(one, fleet), strict=True))
