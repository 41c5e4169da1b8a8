from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevision.bundle import open_bundle, write_zip
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import BundleError, EdgeVisionError, InputError, ModelError, UsageError
from edgevision.files import sha256_file, write_json
from edgevision.kit import import_kit, write_kit
from edgevision.kit.contents import parse_kit
from edgevision.kit.describing import describe
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.devices.jetson_trees import ORIN_NX_16, write_tree
from tests.unit.kit.conftest import Board, Finished, bundle_of, pytestmark  # noqa: F401

Edit = Callable[[Path], object]


def changed(finished: Finished, place: Path, edit: Edit) -> Path:
    """A copy of the result that was changed by someone who can compute hashes."""
    shutil.copytree(finished.kit / "result", place)
    edit(place)
    sums = place / "SHA256SUMS"
    sums.unlink()
    lines = [
        f"{sha256_file(path)}  {path.relative_to(place).as_posix()}\n"
        for path in sorted(place.rglob("*"))
        if path.is_file()
    ]
    sums.write_text("".join(lines))
    return place


def replace(name: str, old: str, new: str) -> Edit:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize("packed", [False, True])
def test_the_engine_goes_into_the_bundle_with_a_full_sidecar(
    finished: Finished, tmp_path: Path, packed: bool
) -> None:
    place = shutil.copytree(finished.bundle, tmp_path / "bundle")
    if packed:
        place = write_zip(place, tmp_path / "bundle.zip")
    imported = import_kit(finished.archive, bundle=place)
    with open_bundle(place) as opened:
        (entry,) = [one for one in opened.manifest.runnable() if one.kind == "engine"]
        sidecar = engine_sidecar(opened, entry)
        engine = opened.path(entry).read_bytes()
        kinds = {one.kind for one in opened.manifest.artifacts}
    assert engine == (finished.kit / "result/model.engine").read_bytes()
    assert imported.place == f"{place}/{entry.path}"
    assert entry.path.startswith("engines/jetson-orin-nano/")
    assert entry.path.endswith("/model.int8.tensorrt.engine")
    assert (entry.backend, entry.role, entry.scheme) == ("tensorrt", "shipped", "tensorrt")
    assert entry.meta["compute_capabilities"] == ["87"]
    assert entry.meta["version"] == "10.3.0.26"
    assert entry.meta["batch"] == {"min": 2, "opt": 4, "max": 8}
    assert "timing-cache" in kinds
    # The keys of an engine that was built here, and what the board told.
    assert sidecar.keys() == {
        "backend", "version", "compute_capabilities", "flags", "batch", "workspace_mb",
        "onnx_sha256", "sha256", "target", "scheme", "float_precision", "packages", "layers",
        "device", "trtexec", "calibration",
    }  # fmt: skip
    assert sidecar["flags"] == ["STRONGLY_TYPED"]
    assert sidecar["sha256"] == entry.sha256
    assert sidecar["target"] == "jetson-orin-nano@6.2"
    assert sidecar["packages"] == {"libnvinfer10": "10.3.0.30-1+cuda12.5"}
    assert [layer["precision"] for layer in sidecar["layers"]] == ["fp16", "fp16"]
    assert sidecar["layers"][0]["operator"] == "Conv"
    assert sidecar["device"]["power_mode"] == "15W (mode 0)"
    assert sidecar["device"]["jetpack"] == "6.2"
    assert sidecar["device"]["clocks_locked"] is False
    assert sidecar["device"]["temperatures_c"]["tj-thermal"] == 48.25
    assert sidecar["trtexec"]["queries"] == 400
    # 2.00 to 5.99 ms: the median, and the one at index 400 - 1 - 4.
    assert sidecar["trtexec"]["metrics"]["GPU compute time"] == {"p50_ms": 3.995, "p99_ms": 5.95}
    assert imported.found.notices == ()


def test_a_second_kit_of_the_same_bundle_replaces_the_engine(
    finished: Finished, tmp_path: Path
) -> None:
    place = shutil.copytree(finished.bundle, tmp_path / "bundle")
    for source in (finished.archive, finished.kit / "result", finished.kit):
        import_kit(source, bundle=place)
    with open_bundle(place) as opened:
        assert len([one for one in opened.manifest.runnable() if one.kind == "engine"]) == 1


def test_a_kit_of_a_file_gives_an_engine_and_its_json(
    make_board: Callable[..., Board], tmp_path: Path
) -> None:
    net, kit = float_net(tmp_path / "net.onnx"), tmp_path / "kit"
    write_kit(net, "jetson-orin-nano@6.1", kit)
    board = make_board("10.3.0")
    assert board.run(kit).returncode == 0
    imported = import_kit(kit / "result.tar.gz", out=tmp_path / "out" / "net.engine")
    assert (tmp_path / "out/net.engine").read_bytes()[:4] == b"ftrt"
    sidecar = json.loads((tmp_path / "out/net.engine.json").read_text())
    assert sidecar == imported.found.sidecar
    assert sidecar["onnx_sha256"] == sha256_file(net), "of the file, not of its float16 form"
    assert sidecar["converted"] == "fp16"
    assert sidecar["build_seconds"] >= 0
    (notice,) = imported.found.notices
    assert "kit is for JetPack 6.1, the device has L4T 36.4.3, JetPack 6.2" in notice
    with pytest.raises(UsageError, match="not of a bundle"):
        import_kit(kit / "result.tar.gz", bundle=bundle_of(tmp_path))


def test_flags_and_dla_of_tensorrt_8(make_board: Callable[..., Board], tmp_path: Path) -> None:
    net, kit = quantized_net(tmp_path / "net.onnx", batch=1, opset=17), tmp_path / "kit"
    write_kit(net, "jetson-orin-nx@6.0", kit, dla_core=0)
    board = make_board("8.6.2")
    shutil.rmtree(board.root)
    write_tree(board.root, ORIN_NX_16)
    assert board.run(kit).returncode == 0
    sidecar = import_kit(kit, out=tmp_path / "net.engine").found.sidecar
    assert sidecar["flags"] == ["FP16", "GPU_FALLBACK", "INT8"]
    assert sidecar["version"] == "8.6.2.26"
    assert sidecar["dla_core"] == 0
    assert sidecar["dla_fallback"] == ["pool"]
    assert "converted" not in sidecar


@pytest.mark.parametrize(
    ("edit", "error", "reason"),
    [
        (replace("facts.txt", "graph_sha256 ", "graph_sha256 0"), InputError, "from another 'mod"),
        (replace("facts.txt", "graph model.onnx", "graph other.onnx"), InputError, "no graph of"),
        (replace("facts.txt", "typed yes", "typed no"), InputError, "other options"),
        (replace("facts.txt", "build_seconds ", "build_seconds x"), InputError, "no number"),
        (replace("kit.json", '"seconds": 10', '"seconds": 11'), InputError, "not that of the kit"),
        (
            replace("build.args", "workspace:1024", "workspace:9"),
            InputError,
            "=workspace:1024 is m",
        ),
        (
            replace("build.args", "--stronglyTyped", "--best"),
            InputError,
            "--best is not of the kit",
        ),
        (
            replace("build.log", "TensorRT version: 10.3", "TensorRT version: 10.7"),
            InputError,
            "two",
        ),
        (replace("build.log", "Capability: 8.7", "Capability: 7.2"), InputError, "GPU of 72"),
        (
            replace("build.log", "=== Device", "UINT8 is used, INT8 instead ==="),
            ModelError,
            "was clipped",
        ),
        (replace("layers.json", '"Layers"', '"Other"'), InputError, "no layers"),
        (
            replace("layers.json", '"Inputs": [', '"Inputs": [7, '),
            InputError,
            "no report of layers",
        ),
        (replace("times.json", "[", "{"), InputError, "no valid JSON"),
        (lambda folder: (folder / "times.json").write_text("[" * 99_999), InputError, "no valid"),
        (
            lambda folder: (folder / "model.engine").write_bytes(b"MZ"),
            InputError,
            "no plan of this",
        ),
        (lambda folder: (folder / "layers.json").unlink(), InputError, "lacks 'layers.json'"),
        (
            replace("device/proc/device-tree/compatible", "p3767-0005", "p3701-0005"),
            InputError,
            "engine was built on: NVIDIA Jetson AGX Orin",
        ),
    ],
)
def test_a_result_of_something_else_is_refused(
    finished: Finished, tmp_path: Path, edit: Edit, error: type[EdgeVisionError], reason: str
) -> None:
    place = shutil.copytree(finished.bundle, tmp_path / "bundle")
    before = (place / "manifest.json").read_bytes()
    with pytest.raises(error, match=reason):
        import_kit(changed(finished, tmp_path / "result", edit), bundle=place)
    assert (place / "manifest.json").read_bytes() == before


def _kit_says(**fields: object) -> Edit:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "kit.json").read_text())
        before = sha256_file(folder / "kit.json")
        write_json(folder / "kit.json", {**values, **fields})
        replace("facts.txt", before, sha256_file(folder / "kit.json"))(folder)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_kit_says(schema_version=2), "schema version 2, this EdgeVision reads 1"),
        (_kit_says(more=1), "more: Extra inputs"),
        (_kit_says(seconds=0), "seconds: Input should be greater"),
        (lambda folder: (folder / "kit.json").write_text("7"), "must hold a JSON object"),
        (lambda folder: (folder / "kit.json").write_text("{"), "no valid JSON"),
    ],
)
def test_a_kit_of_another_form_is_refused(
    finished: Finished, tmp_path: Path, edit: Edit, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        import_kit(changed(finished, tmp_path / "result", edit), out=tmp_path / "x.engine")
    assert not (tmp_path / "x.engine").exists()


def test_a_target_that_leads_out_of_the_bundle_is_refused(
    finished: Finished, tmp_path: Path
) -> None:
    place = shutil.copytree(finished.bundle, tmp_path / "bundle")
    target = json.loads((finished.kit / "kit.json").read_text())["target"]
    edit = _kit_says(target={**target, "name": "../../outside"})
    with pytest.raises(BundleError, match="stay inside the folder"):
        import_kit(changed(finished, tmp_path / "result", edit), bundle=place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "result"]


def test_another_bundle_is_refused(finished: Finished, tmp_path: Path) -> None:
    other = bundle_of(tmp_path)
    graph = other / "model.int8.tensorrt.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x0a\x00")  # a field that ONNX passes over
    manifest = json.loads((other / "manifest.json").read_text())
    for entry in manifest["artifacts"]:
        if entry["path"] == graph.name:
            entry.update(sha256=sha256_file(graph), size=graph.stat().st_size)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="made of another bundle"):
        import_kit(finished.archive, bundle=other)


def test_one_destination_is_needed(finished: Finished, tmp_path: Path) -> None:
    for places in ({}, {"bundle": finished.bundle, "out": tmp_path / "x"}):
        with pytest.raises(UsageError, match="--bundle BUNDLE, or --out FILE"):
            import_kit(finished.archive, **places)


def _mutate(value: Any, source: random.Random) -> Any:
    """``value`` with one part of it, at any depth, another."""
    others = (None, True, -1, 10**400, 1.5e308, "", "x" * 300, [], {}, [None], {"a": 1}, "../..")
    if isinstance(value, (dict, list)) and value and source.random() < 0.85:
        copied = value.copy()
        key = (
            source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        )
        copied[key] = _mutate(value[key], source)
        return copied
    return source.choice(others)


@pytest.mark.parametrize("rounds", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_mutated_contents_never_crash(finished: Finished, tmp_path: Path, rounds: int) -> None:
    source = random.Random(11)
    folder = changed(finished, tmp_path / "result", lambda _: None)
    whole = {
        name: (folder / name).read_bytes() for name in ("kit.json", "layers.json", "facts.txt")
    }
    values = {name: json.loads(data) for name, data in whole.items() if name.endswith(".json")}
    short = json.loads((folder / "times.json").read_text())[:3]
    refused = 0
    for round_ in range(rounds):
        name = ("kit.json", "layers.json", "times.json")[round_ % 3]
        told = _mutate(short if name == "times.json" else values[name], source)
        (folder / name).write_text(json.dumps(told))
        facts = whole["facts.txt"].decode()
        facts = re.sub(r"kit_sha256 \S+", f"kit_sha256 {sha256_file(folder / 'kit.json')}", facts)
        (folder / "facts.txt").write_text(facts)
        with contextlib.suppress(InputError):
            kit = parse_kit((folder / "kit.json").read_bytes())
            describe(folder, kit, None)
            refused -= 1
        refused += 1
        (folder / name).write_bytes(whole[name] if name in whole else json.dumps(short).encode())
    assert refused > rounds / 3
