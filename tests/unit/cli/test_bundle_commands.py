"""``run``, ``verify``, ``inspect`` and ``bench`` as a user calls them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from edgevision.benchmark.report_schema import LayerRow, read_report
from edgevision.bundle import AccuracyVerdict, LatencyVerdict, Verdict, write_zip
from edgevision.cli.app import run_command
from edgevision.cli.inspect import _layer_table, _reasons, _worst

Make = Callable[..., Path]
Paint = Callable[..., np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def photos(tmp_path: Path, paint: Paint) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(paint(0)).save(folder / "a.png")
    Image.fromarray(paint(2)).save(folder / "sub" / "a.png")
    return folder


def test_run_on_a_folder(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn"
    assert run_command(["run", str(bundle), "--source", str(photos), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "red" in told.out
    assert "blue" in told.out
    assert "model.int8.onnx on onnxruntime" in told.err
    drawn = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert drawn == ["a.png.png", "sub/a.png.png"]
    with Image.open(out / "a.png.png") as picture:
        picture.load()
        assert min(picture.size) >= 10


def test_run_goes_on_after_bad_files(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:30])
    (photos / "c.jpg").write_bytes(b"")
    assert run_command(["run", str(bundle), "--source", str(photos), "--json"]) == 3
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.png", "c.jpg", "a.png"]
    assert [line.get("prediction", {}).get("label") for line in lines] == [
        "red",
        None,
        None,
        "blue",
    ]
    assert "b.png" in lines[1]["error"]
    assert "2 of 4 files could not be read" in told.err


def test_run_on_one_file_and_another_artifact(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(photos / "a.png")
    assert run_command(["run", str(bundle), "--source", source, "--artifact", "baseline"]) == 0
    assert "model.fp32.onnx on onnxruntime: asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("0", 2, "Cameras, streams and videos"),
        ("film.MP4", 2, "Supported: image files"),
        ("rtsp://camera/1", 2, "not part of the base install"),
        ("missing.png", 3, "No file or folder at missing.png"),
    ],
)
def test_sources_that_cannot_be_used(
    bundle: Path, source: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["run", str(bundle), "--source", source]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["run", "--source", "x.png"], ["verify"], ["inspect"], ["bench"]]
)
def test_a_damaged_bundle_stops_every_command(
    bundle: Path, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    model = bundle / "model.int8.onnx"
    data = bytearray(model.read_bytes())
    data[50] ^= 1
    model.write_bytes(data)
    if command[0] == "run":
        command = ["run", "--source", str(tmp_path / "x.png")]
    assert run_command([*command, str(bundle)]) == 3
    told = capsys.readouterr().err
    assert "expected: sha256" in told
    assert "Traceback" not in told


def test_verify(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (bundle, write_zip(bundle, tmp_path / "b.zip")):
        assert run_command(["verify", str(path)]) == 0
        told = capsys.readouterr().out
        assert "every hash is right" in told
        assert "3 golden images equal bit for bit" in told
    assert run_command(["verify", str(bundle), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["golden"]["checks"]) == 2


def test_verify_without_golden_vectors(
    make_bundle: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["verify", str(make_bundle(golden=False))]) == 3
    assert "no golden vectors" in capsys.readouterr().err


def test_inspect(make_bundle: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(
        scheme="x86-vnni",
        verdict=Verdict(
            passed=True,
            exit_code=0,
            accuracy=AccuracyVerdict(
                metric="top1", baseline=91.2, candidate=91.0, drop=0.2, budget=0.5, n_images=10_000
            ),
            latency=LatencyVerdict(baseline=3.0, candidate=1.0, ratio=3.0, low=2.9, high=3.1),
        ),
    )
    assert run_command(["inspect", str(folder), "--layers"]) == 0
    told = capsys.readouterr().out
    for wanted in (
        "red, green, blue",
        "model.int8.onnx",
        "x86-vnni",
        "top1 91.20 → 91.00 % over 10000 images",
        "3.00 times (2.90 to 3.10)",
        "MatMul",
    ):
        assert wanted in told, wanted
    assert run_command(["inspect", str(folder), "--json", "--layers"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["task"] == "classification"
    assert "MatMul" in {row["operator"] for row in values["layers"]["model.fp32.onnx"]}


def test_layers_are_told_with_noise_range_and_reasons() -> None:
    rows = [
        LayerRow(name="a", operator="Conv", asked="int8", used="int8", sqnr_db=35.0, amax=1.5),
        LayerRow(name="[b]", operator="Conv", asked="int8", used="fp32", sqnr_db=12.0, reason="r"),
        LayerRow(name="c", operator="Add", asked="int8", used="fp32", sqnr_db=30.0, reason="r"),
        LayerRow(name="reorder", operator="Transpose", used="int8", time_ms=0.5),
    ]
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(_layer_table("model.onnx", rows))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert lines[2].split() == ["a", "Conv", "int8", "int8", "35.0", "1.5"]
    assert lines[3].split() == ["[b]", "Conv", "int8", "fp32", "12.0"]
    assert lines[5].split() == ["reorder", "Transpose", "int8", "0.5000"]
    assert [row.name for row in _worst(rows, 2)] == ["[b]", "c"]
    assert _reasons(rows) == [r"\[b], c: r"]


def test_bench_writes_its_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench"
    code = run_command(
        ["bench", str(bundle), "--seconds", "0.3", "--threads", "1", "--out", str(out)]
    )
    # The same network twice: it may be called not faster, and nothing else.
    assert code in (0, 5)
    told = capsys.readouterr().out
    assert "Device latency" in told
    assert "End-to-end latency" in told
    report = read_report((out / "report.json").read_bytes())
    assert report.latency is not None
    assert report.latency.baseline == "model.fp32.onnx"
    assert list(report.latency.runs) == ["model.fp32.onnx", "model.int8.onnx"]
    assert report.end_to_end is not None
    assert report.verdict.exit_code == code
    assert report.environment["cpu_threads"] == 1
    device = report.latency.runs["model.fp32.onnx"].latency_p50_ms
    assert report.end_to_end.runs["model.fp32.onnx"].latency_p50_ms > device
    assert "model.int8.onnx" in (out / "report.html").read_text(encoding="utf-8")


def test_bench_of_one_artifact_with_itself(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["bench", str(bundle), "--artifact", "baseline", "--seconds", "0.2"]) == 6
    assert "Nothing to compare" in capsys.readouterr().err
