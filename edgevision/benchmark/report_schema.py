"""What ``report.json`` holds, for ``compress``, ``bench`` and the HTML page alike.

How to fill it: every section beside ``title``, ``model``, ``target`` and ``verdict`` may be left
out, and the page then leaves it out too. ``latency`` and ``end_to_end`` are
``Comparison.to_dict()`` of two runs, the baseline's name first; ``environment`` is
``edgevision.devices.environment()``; ``lineage`` and ``verdict`` are the manifest's own models.

    report = Report(
        title="cifar-resnet20 on cpu",
        model=ModelSection(reference="cifar-resnet20", task="classification", ...),
        target="cpu",
        verdict=Verdict(...),
        latency=compare({"fp32": ..., "int8": ...}, baseline="fp32").to_dict(),
        sizes=[SizeRow(name="model.fp32.onnx", bytes=1_100_000, role="baseline"), ...],
    )
    writer.add_bytes(report.to_bytes(), "report.json", kind="report")
    writer.add_bytes(render_html(report).encode(), "report.html", kind="report")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from edgevision.bundle.manifest import Lineage, Verdict
from edgevision.errors import InputError


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Model):
    """The network: ``parameters`` and ``macs`` (for one image) of baseline and shipped."""

    reference: str
    task: str
    input: str | None = None  # as TensorSpec prints, e.g. "input: float32[batch, 3, 32, 32]"
    classes: int | None = None
    parameters: tuple[int, int] | None = None
    macs: tuple[int, int] | None = None


class DataSection(_Model):
    """The data set and how many images of it were used for what."""

    reference: str
    train_images: int | None = None
    validation_images: int | None = None
    calibration_images: int | None = None


class CandidateRow(_Model):
    """One network that might have shipped; accuracy in percent, latency p50 in ms."""

    name: str
    accuracy: float
    drop: float
    latency_p50_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bytes: int | None = None
    shipped: bool = False
    note: str = ""


class StatsRow(_Model):
    """``RunStats`` as JSON."""

    samples: int
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    latency_mean_ms: float
    latency_min_ms: float
    latency_max_ms: float
    throughput: float


class RatioRow(_Model):
    """``Ratio`` as JSON: baseline median / this run's median."""

    value: float
    low: float
    high: float


class ComparisonSection(_Model):
    """``Comparison.to_dict()``."""

    baseline: str
    runs: dict[str, StatsRow]
    ratios: dict[str, RatioRow]
    samples_ms: dict[str, list[float]] = Field(default_factory=dict)
    protocol: dict[str, JsonValue] = Field(default_factory=dict)
    environment: dict[str, JsonValue] = Field(default_factory=dict)


class RailRow(_Model):
    """Watts of a power rail: mean, and highest between two readings."""

    mean_w: float
    peak_w: float


class PowerRow(_Model):
    """``RunPower`` as JSON: total power of one run that had the machine to itself."""

    images: int
    seconds: float
    mean_w: float
    peak_w: float
    millijoules_per_image: float
    rails: dict[str, RailRow] = Field(default_factory=dict)


class PowerSection(_Model):
    """Power of each run; ``total_of`` names the rails in it, ``idle_w`` is that before the runs."""

    total_of: tuple[str, ...]
    idle_w: float | None = None
    runs: dict[str, PowerRow]


class ClockRow(_Model):
    """Range of a clock in MHz while device latency was measured."""

    lowest_mhz: float
    mean_mhz: float
    highest_mhz: float


class ConditionsSection(_Model):
    """Clocks and heat of the measurement; ``notices`` say what held the machine back."""

    clocks: dict[str, ClockRow] = Field(default_factory=dict)
    highest_c: float | None = None
    notices: tuple[str, ...] = ()


class LayerRow(_Model):
    """One node of the network, or a layer that the backend added, which was not ``asked`` for.

    Attributes:
        name: of the node; of the backend's layer where it added one.
        operator: ONNX's; the backend's word for a layer that it added.
        asked: what placement wanted: ``int8``, ``float``, or ``follows`` its neighbours.
        used: precision that the backend reports, empty where it does not name the node.
        time_ms: where the backend measured it; of one node of those that a layer computes.
        layer: name of the backend's layer that computes it, where that is another one.
        reason: why it is in float, by placement or by what the backend made of it.
        sqnr_db: signal over quantization noise at its output, it alone quantized.
        amax: largest absolute value that its quantized inputs can hold.
        saturated: share of the calibration values of those inputs that lie beyond, 0 to 1.
        trait: what makes integers pay little, e.g. ``depthwise``.
    """

    name: str
    operator: str
    asked: str | None = None
    used: str = ""
    time_ms: float | None = None
    layer: str = ""
    reason: str = ""
    sqnr_db: float | None = None
    amax: float | None = None
    saturated: float | None = None
    trait: str = ""


class PruningRow(_Model):
    """Output channels of one layer before and after."""

    layer: str
    before: int
    after: int


class PruningSection(_Model):
    """Structured pruning: how it was done, and what it left of every layer."""

    facts: dict[str, JsonValue] = Field(default_factory=dict)
    rows: tuple[PruningRow, ...] = ()


class QuantizationSection(_Model):
    """Calibration and placement: plain facts, and what was left in float and why."""

    scheme: str
    method: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    left_in_float: dict[str, str] = Field(default_factory=dict)  # node → reason
    nodes: dict[str, tuple[LayerRow, ...]] = Field(default_factory=dict)  # by graph


class SizeRow(_Model):
    """One file of the bundle."""

    name: str
    bytes: int
    role: str | None = None


class Report(_Model):
    """The whole report; see the module's text."""

    schema_version: Literal[1] = 1
    title: str
    model: ModelSection
    data: DataSection | None = None
    target: str
    verdict: Verdict
    candidates: tuple[CandidateRow, ...] = ()
    latency: ComparisonSection | None = None
    end_to_end: ComparisonSection | None = None
    power: PowerSection | None = None
    conditions: ConditionsSection | None = None
    layers: tuple[LayerRow, ...] = ()
    pruning: PruningSection | None = None
    quantization: QuantizationSection | None = None
    sizes: tuple[SizeRow, ...] = ()
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    lineage: Lineage | None = None

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, keys in the order of the fields: a comparison's baseline stays first."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)
        return text.encode() + b"\n"


def read_report(values: Mapping[str, Any] | bytes) -> Report:
    """Check a report's values, or the bytes of a ``report.json``.

    Raises:
        InputError: a field is missing, unknown or of the wrong type; says which.
    """
    try:
        content = json.loads(values) if isinstance(values, bytes) else values
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"Report: {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"Report is no valid JSON: {error}") from error
