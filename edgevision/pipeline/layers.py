"""The layers of a bundle's artifacts: precision asked for against precision used."""

from __future__ import annotations

from edgevision.benchmark.report_schema import LayerRow, read_report
from edgevision.bundle import ArtifactEntry, Bundle
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import InputError
from edgevision.runtime.choose import ranked


def bundle_layers(bundle: Bundle) -> dict[str, list[LayerRow]]:
    """Artifact path → its layers, of every artifact that runs here or has a stored report.

    An engine's layers come from its sidecar, an ONNX file's from the backend on this machine. What
    placement asked for is in the bundle's report, where there is one.
    """
    asked = _asked(bundle)
    found: dict[str, list[LayerRow]] = {}
    for entry, _, obstacle in ranked(bundle.manifest):
        if entry.kind == "engine":
            rows = _stored_layers(bundle, entry)
        elif obstacle is None:
            rows = _reported_layers(bundle, entry)
        else:
            continue
        found[entry.path] = [
            row.model_copy(update={"asked": asked.get(row.name)})
            if entry.precision == "int8"
            else row
            for row in rows
        ]
    return found


def _stored_layers(bundle: Bundle, entry: ArtifactEntry) -> list[LayerRow]:
    layers = engine_sidecar(bundle, entry).get("layers", [])
    try:
        return [
            LayerRow(
                name=layer["name"],
                operator=layer["operator"],
                used=layer["precision"],
                time_ms=layer.get("time_ms"),
            )
            for layer in layers
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"Sidecar of '{entry.path}' has layers of an unknown form.") from error


def _reported_layers(bundle: Bundle, entry: ArtifactEntry) -> list[LayerRow]:
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    report = get_backend("onnxruntime").layer_report(Artifact("onnxruntime", bundle.path(entry)))
    return [
        LayerRow(
            name=layer.name,
            operator=layer.operator,
            used=layer.precision,
            time_ms=layer.time_ms,
        )
        for layer in report
    ]


def _asked(bundle: Bundle) -> dict[str, str]:
    for entry in bundle.manifest.artifacts:
        if entry.path == "report.json":
            report = read_report(bundle.path(entry).read_bytes())
            return {row.name: row.asked for row in report.layers if row.asked is not None}
    return {}
