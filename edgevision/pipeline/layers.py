"""The layers of a bundle's artifacts: precision asked for against precision used, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevision.backends.onnx_file import read_onnx
from edgevision.benchmark.report_schema import LayerRow, Report, read_report
from edgevision.bundle import ArtifactEntry, Bundle
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import InputError
from edgevision.pipeline.candidates import emission, graphs
from edgevision.pipeline.job import Job
from edgevision.pipeline.matching import Match, match_layers
from edgevision.runtime.choose import backend_for, ranked
from edgevision.types import LayerInfo


def bundle_layers(bundle: Bundle) -> dict[str, list[LayerRow]]:
    """Artifact path → its layers, of every artifact that runs here or has a stored report.

    An engine's layers come from its sidecar, an ONNX file's from the backend on this machine. What
    placement asked for, noise and ranges are in the bundle's report, where there is one.
    """
    report = _report(bundle)
    found: dict[str, list[LayerRow]] = {}
    for entry, _, obstacle in ranked(bundle):
        layers: Sequence[LayerInfo]
        if entry.kind == "engine":
            layers = _stored_layers(bundle, entry)
        elif obstacle is None:
            layers = _reported_layers(bundle, entry)
        else:
            continue
        asked = _asked(report, entry)
        graph = _graph(bundle, entry)
        found[entry.path] = (
            layer_rows(asked, layers, graph) if asked and graph else plain_rows(layers)
        )
    return found


def layer_rows(
    asked: Sequence[LayerRow], layers: Sequence[LayerInfo], graph: Path
) -> list[LayerRow]:
    """Every node with what a backend made of it, in the graph's order.

    Layers that belong to no node, such as conversions, stand behind the node that they follow.

    Args:
        asked: a row for each node of the float graph, without what was used.
        layers: the backend's report.
        graph: the ONNX file that it was given.

    Raises:
        ModelError: ``graph`` is no ONNX file.
    """
    matches = match_layers(read_onnx(graph).nodes, layers)
    places = {row.name: number for number, row in enumerate(asked)}
    behind: dict[int, list[LayerRow]] = {}
    owners = {i: name for name, match in matches.items() for i in match.owned}
    place = -1
    for index, layer in enumerate(layers):
        if index in owners:
            place = places.get(owners[index], place)
        else:
            behind.setdefault(place, []).extend(plain_rows([layer]))
    rows = behind.get(-1, [])
    for number, row in enumerate(asked):
        rows += [_used(row, matches.get(row.name), layers), *behind.get(number, [])]
    return rows


def graph_layers(job: Job, name: str) -> tuple[LayerRow, ...]:
    """What the build stage's backend made of the graph ``name``; empty where nothing was built."""
    if "build" not in job.results:
        return ()
    built = job.done("build").json("artifacts.json")
    layers = [LayerInfo(**layer) for layer in built[name]["layers"]]
    paths = {graph.file: graph.path for graph in graphs(job)}
    nodes = graph_nodes(job).get(name)
    return tuple(layer_rows(nodes, layers, paths[name]) if nodes else plain_rows(layers))


def graph_nodes(job: Job) -> dict[str, tuple[LayerRow, ...]]:
    """Graph → what was asked for each node of the float graph, and what is known of it."""
    return {
        graph.file: tuple(LayerRow(**node) for node in emission(job, graph).get("nodes", ()))
        for graph in graphs(job)
        if graph.scheme is not None
    }


def plain_rows(layers: Sequence[LayerInfo]) -> list[LayerRow]:
    """The backend's report alone."""
    return [
        LayerRow(
            name=layer.name, operator=layer.operator, used=layer.precision, time_ms=layer.time_ms
        )
        for layer in layers
    ]


def _used(row: LayerRow, match: Match | None, layers: Sequence[LayerInfo]) -> LayerRow:
    if match is None:
        reason = row.reason
        if row.asked == "int8":
            reason = "the backend names no layer for it: merged with others, or removed"
        return row.model_copy(update={"reason": reason})
    layer = layers[match.layers[0]]
    times = [time for i in match.owned if (time := layers[i].time_ms) is not None]
    update = {
        "used": layer.precision,
        "time_ms": sum(times) if times else None,
        "layer": "" if match.owned else layer.name,
    }
    if row.asked == "int8" and layer.precision != "int8":
        update["reason"] = (
            f"precision not honoured: the backend runs it in {layer.precision}"
            if match.owned
            else f"fused into '{layer.name}', which reads {layer.precision}"
        )
    return row.model_copy(update=update)


def _stored_layers(bundle: Bundle, entry: ArtifactEntry) -> list[LayerInfo]:
    try:
        return [
            LayerInfo(
                str(layer["name"]),
                str(layer["operator"]),
                str(layer["precision"]),
                layer.get("time_ms"),
                tuple(layer.get("nodes", ())),
            )
            for layer in engine_sidecar(bundle, entry).get("layers", [])
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"Sidecar of '{entry.path}' has layers of an unknown form.") from error


def _reported_layers(bundle: Bundle, entry: ArtifactEntry) -> Sequence[LayerInfo]:
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    name, _ = backend_for(entry)
    return get_backend(name).layer_report(Artifact(name, bundle.path(entry)))


def _report(bundle: Bundle) -> Report | None:
    for entry in bundle.manifest.artifacts:
        if entry.path == "report.json":
            return read_report(bundle.path(entry).read_bytes())
    return None


def _asked(report: Report | None, entry: ArtifactEntry) -> Sequence[LayerRow]:
    if report is None or report.quantization is None:
        return ()
    return report.quantization.nodes.get(_graph_name(entry), ())


def _graph(bundle: Bundle, entry: ArtifactEntry) -> Path | None:
    """The ONNX file itself, or the one that an engine was built from."""
    name = _graph_name(entry)
    found = (other for other in bundle.manifest.artifacts if other.path == name)
    return next((bundle.path(other) for other in found), None)


def _graph_name(entry: ArtifactEntry) -> str:
    """An engine is called like the graph that it was built from."""
    return f"{Path(entry.path).stem}.onnx"
