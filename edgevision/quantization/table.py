"""The calibration table: the only thing that passes from calibration to emission."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError, StorageError
from edgevision.files import canonical_json, write_atomic
from edgevision.quantization.histogram import HALF, Histogram

VERSION = 1

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorRange:
    """What one activation tensor's values were, and which part of them to quantize.

    Attributes:
        minimum, maximum: smallest and largest value seen.
        low, high: range for asymmetric quantization, inside the former.
        amax: largest absolute value for symmetric quantization.
        count: number of values seen.
        histogram: kept by methods that make one.
    """

    minimum: float
    maximum: float
    low: float
    high: float
    amax: float
    count: int
    histogram: Histogram | None = None

    def inside(self, low: float, high: float) -> TensorRange:
        """The same with the asymmetric range cut to ``low`` and ``high`` where it overlaps them."""
        if max(self.low, low) > min(self.high, high):
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of all activation tensors that any scheme quantizes.

    Attributes:
        method: name of the calibrator, with its ``settings``.
        images: how many were seen.
        onnx_sha256: of the float model that was calibrated.
        calibration_digest: of the calibration set's manifest, empty where none was given.
        tensors: by tensor name.
        weight_scales: scales that were learned for weights, (C,) or 0-d, by weight tensor; those
            of other weights follow from their largest absolute value.
        corrections: scheme → output of a layer → (C,) what to add to the layer's bias.
    """

    method: str
    settings: Mapping[str, Any]
    images: int
    onnx_sha256: str
    calibration_digest: str
    tensors: Mapping[str, TensorRange]
    weight_scales: Mapping[str, Float32] = field(default_factory=dict)
    corrections: Mapping[str, Mapping[str, Float32]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same table gives the same bytes."""
        values: dict[str, Any] = {
            "version": VERSION,
            "method": self.method,
            "settings": dict(self.settings),
            "images": self.images,
            "onnx_sha256": self.onnx_sha256,
            "calibration_digest": self.calibration_digest,
            "tensors": {name: _range_to_json(value) for name, value in self.tensors.items()},
        }
        if self.weight_scales:
            values["weight_scales"] = _arrays_to_json(self.weight_scales)
        if self.corrections:
            values["corrections"] = {k: _arrays_to_json(v) for k, v in self.corrections.items()}
        return canonical_json(values)

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            write_atomic(path, self.to_bytes())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}.") from error

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read a table back; every field is checked.

        Raises:
            ModelError: missing, not JSON, another version, or values that contradict each other.
        """
        try:
            raw = json.loads(path.read_bytes())
        except OSError as error:
            raise ModelError(f"No calibration table at {path}: {error.strerror}.") from error
        except ValueError as error:
            raise ModelError(f"{path}: not a calibration table: {error}") from error
        version = raw.get("version") if isinstance(raw, dict) else None
        if version != VERSION:
            raise ModelError(
                f"{path}: expected calibration table version {VERSION}, got {version}."
            )
        try:
            tensors = {name: _range_from_json(name, v) for name, v in raw["tensors"].items()}
            return cls(
                method=str(raw["method"]),
                settings=dict(raw["settings"]),
                images=int(raw["images"]),
                onnx_sha256=str(raw["onnx_sha256"]),
                calibration_digest=str(raw["calibration_digest"]),
                tensors=tensors,
                weight_scales=_arrays_from_json(raw.get("weight_scales", {})),
                corrections={
                    str(scheme): _arrays_from_json(arrays)
                    for scheme, arrays in raw.get("corrections", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{path}: damaged calibration table: {error!r}") from error


def _arrays_to_json(arrays: Mapping[str, Float32]) -> dict[str, str | float]:
    """As text, one string an array; a float32 is exact with nine digits. 0-d: a number."""
    return {
        name: " ".join(f"{x:.9g}" for x in array.tolist()) if array.ndim else float(array)
        for name, array in arrays.items()
    }


def _arrays_from_json(raw: Mapping[str, str | float]) -> dict[str, Float32]:
    arrays = {
        str(name): np.array(
            [float(x) for x in value.split()] if isinstance(value, str) else value, np.float32
        )
        for name, value in raw.items()
    }
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad is not None:
        raise ValueError(f"'{bad}': numbers must be finite")
    return arrays


def _range_to_json(value: TensorRange) -> dict[str, Any]:
    out: dict[str, Any] = {
        "minimum": value.minimum,
        "maximum": value.maximum,
        "low": value.low,
        "high": value.high,
        "amax": value.amax,
        "count": value.count,
    }
    if value.histogram is not None:
        filled = np.flatnonzero(value.histogram.bins)
        first, last = (int(filled[0]), int(filled[-1])) if filled.size else (HALF, HALF)
        # One string: a list would take a line a bin.
        counts = " ".join(map(str, value.histogram.bins[first : last + 1].tolist()))
        out["histogram"] = {
            "exponent": value.histogram.exponent,
            "zeros": value.histogram.zeros,
            "first": first - HALF,
            "counts": counts,
        }
    return out


def _range_from_json(name: str, raw: dict[str, Any]) -> TensorRange:
    fields = ("minimum", "maximum", "low", "high", "amax")
    numbers = {field: float(raw[field]) for field in fields}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"'{name}': ranges must be finite")
    inside = numbers["minimum"] <= numbers["low"] <= numbers["high"] <= numbers["maximum"]
    count = int(raw["count"])
    if not inside or numbers["amax"] < 0 or count < 1:
        raise ValueError(f"'{name}': minimum <= low <= high <= maximum and amax >= 0 must hold")
    histogram = None
    if "histogram" in raw:
        histogram = _histogram_from_json(name, raw["histogram"])
        if int(histogram.bins.sum()) != count:
            raise ValueError(f"'{name}': the histogram does not hold {count} values")
    return TensorRange(**numbers, count=count, histogram=histogram)


def _histogram_from_json(name: str, raw: dict[str, Any]) -> Histogram:
    counts = np.array([int(text) for text in raw["counts"].split()], np.int64)
    first = int(raw["first"]) + HALF
    if first < 0 or first + len(counts) > 2 * HALF or (counts < 0).any():
        raise ValueError(f"'{name}': histogram bins out of range")
    histogram = Histogram(int(raw["exponent"]), int(raw["zeros"]))
    histogram.bins[first : first + len(counts)] = counts
    return histogram
