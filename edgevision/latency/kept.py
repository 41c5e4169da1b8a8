"""Times that are kept between runs, in the user's cache folder.

Whole networks are kept as sets: one session of interleaved measurements is one entry, used as a
whole or not at all, as times of different sessions cannot be compared (decision 12). Cells, which
are single layers, are kept one by one in a table for each device, backend and precision. Lengths of
networks that must be exported anew for each of their groups are kept too: they take as long.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from edgevision.backends.base import Backend
from edgevision.data.cache import alone, cache_folder
from edgevision.export.graph import all_graphs
from edgevision.files import digest, sha256_bytes, write_json
from edgevision.latency.record import WidthTimes
from edgevision.latency.shapes import Lost, Place
from edgevision.machine import Machine, ThisMachine

log = logging.getLogger(__name__)

_LENGTHS = TypeAdapter(dict[str, list[tuple[str, int, int]]])
_DEVICE = ("name", "architecture", "cores", "cpu_features", "gpu")


def place_of(
    backend: Backend, threads: int | None, machine: Machine | None = None
) -> dict[str, Any]:
    """What a time belongs to beside the graph: device, backend and its version, threads.

    ``machine``: that runs it, None for this one.
    """
    machine = machine or ThisMachine()
    facts = asdict(machine.facts)
    return {
        "device": {name: facts[name] for name in _DEVICE},
        "backend": machine.can_run(backend.name).reason,
        "threads": threads,
    }


def structure_digest(model: onnx.ModelProto) -> str:
    """sha256 hex of all but the weights: operators, attributes, names, shapes and types.

    Whole numbers of 64 bits are shapes and axes, so their values count.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for graph in all_graphs(bare.graph):
        for tensor in graph.initializer:
            if tensor.data_type != onnx.TensorProto.INT64:
                for field in ("raw_data", "float_data", "int32_data", "double_data"):
                    tensor.ClearField(field)
    return sha256_bytes(bare.SerializeToString(deterministic=True))


class KeptTimes:
    """Sets of whole networks' times, one file each.

    Args:
        folder: of the cache; None: the user's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder(folder) / "latency" / "networks"

    def find(
        self, key: Mapping[str, Any], *, groups: Sequence[str], networks: int, seconds: float
    ) -> WidthTimes | None:
        """The set of that key if it is of as many networks, measured for as long, or of more.

        Args:
            groups: names in the order of the columns; a set of others counts as none.
        """
        try:
            found = WidthTimes.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):  # none, or one that is damaged: measured again
            return None
        enough = len(found.kept) >= networks and found.seconds >= seconds
        return found if enough and found.groups == tuple(groups) else None

    def keep(self, key: Mapping[str, Any], times: WidthTimes) -> None:
        """Store ``times`` in place of what was there; where that fails, a warning says so."""
        with _tolerated():
            write_json(self._path(key), times.model_dump(mode="json"))

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self._folder / f"{digest(dict(key))}.json"


class KeptLengths:
    """What widths take from the lengths of a network's tensors (``WidthShapes.lost``).

    Args:
        folder: of the cache; None: the user's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder(folder) / "latency" / "lengths"

    def find(self, key: Mapping[str, Any], groups: Collection[str]) -> Lost | None:
        """Those of that key, None where there are none for exactly these ``groups``."""
        try:
            found = _LENGTHS.validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):  # none, or damaged ones: found out again
            return None
        if found.keys() != set(groups):
            return None
        lost: dict[str, dict[Place, int]] = {}
        for group, places in found.items():
            lost[group] = {(tensor, axis): length for tensor, axis, length in places}
        return lost

    def keep(self, key: Mapping[str, Any], lost: Lost) -> None:
        """Store ``lost`` in place of what was there; where that fails, a warning says so."""
        found = {
            group: [[tensor, axis, length] for (tensor, axis), length in sorted(places.items())]
            for group, places in lost.items()
        }
        with _tolerated():
            write_json(self._path(key), found)

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self._folder / f"{digest(dict(key))}.json"


class KeptCells:
    """The table of cells of one device, backend and precision.

    Args:
        place: of :func:`place_of`.
        precision: a scheme's name or ``fp32``.
        folder: of the cache; None: the user's.
    """

    def __init__(
        self, place: Mapping[str, Any], precision: str, folder: Path | None = None
    ) -> None:
        self._place = {**place, "precision": precision}
        name = digest(self._place)[:32]
        self._path = cache_folder(folder) / "latency" / "cells" / f"{name}.json"

    def all(self) -> dict[str, dict[str, Any]]:
        """Cell → ``{"ms": milliseconds, "measured": when}``; empty where none was measured."""
        try:
            table = _Cells.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):  # none, or a damaged one
            return {}
        return {name: cell.model_dump() for name, cell in table.cells.items()}

    def keep(self, cells: Mapping[str, Mapping[str, Any]]) -> None:
        """Add ``cells`` to the table, replacing the same ones; a warning says where that fails."""
        with _tolerated(), alone(self._path.with_suffix(".lock")):
            write_json(self._path, {"place": self._place, "cells": {**self.all(), **cells}})


class _Cell(BaseModel):
    ms: float = Field(gt=0, allow_inf_nan=False)
    measured: str


class _Cells(BaseModel):
    cells: dict[str, _Cell]


@contextmanager
def _tolerated() -> Iterator[None]:
    """Times that were measured are worth more than their copy in the cache."""
    try:
        yield
    except OSError as error:
        log.warning("Times are not kept for later runs: %s.", error)
