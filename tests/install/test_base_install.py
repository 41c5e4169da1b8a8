"""What a device gets: ``pip install edgevision`` without extras."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "onnx", "lightning", "datasets", "tensorrt", "openvino")
BASE = (
    "backends",
    "benchmark",
    "bundle",
    "cli",
    "devices",
    "errors",
    "files",
    "lazy",
    "preprocessing",
    "recipe",
    "registry",
    "runtime",
    "targets",
    "tasks",
    "types",
)


def test_nothing_heavy_is_installed(environment) -> None:
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps([d.metadata['Name'].lower() for d in distributions()]))"
    )
    names = set(json.loads(environment.run("-c", code).stdout))
    assert {"edgevision", "numpy", "onnxruntime", "pillow"} <= names
    assert not names & set(HEAVY)


def test_environment_is_small(environment, record_property) -> None:
    sizes: dict[str, int] = {}
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(environment.run("-c", code).stdout.strip())
    for path in packages.rglob("*"):
        # Byte code is written by use, not by installing.
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            top = path.relative_to(packages).parts[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    record_property("megabytes", round(sum(sizes.values()) / 1e6))
    assert sum(sizes.values()) < 250e6, largest


def test_importing_the_runtime_is_light(environment, record_property) -> None:
    code = (
        "import json, sys, time; start = time.perf_counter(); import edgevision.runtime; "
        "print(json.dumps([time.perf_counter() - start, time.process_time(), "
        "sorted(sys.modules)]))"
    )
    seconds, processor = [], []
    for _ in range(7):
        taken, own, modules = json.loads(environment.run("-c", code).stdout)
        seconds.append(taken)
        processor.append(own)
        assert not set(modules) & {*HEAVY, "onnxruntime"}
    record_property("seconds", round(min(seconds), 3))
    record_property("processor_seconds_with_start", round(min(processor), 3))
    if os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1) and min(seconds) >= 0.3:
        pytest.skip(f"the machine is busy: load {os.getloadavg()[0]:.1f}, {min(seconds):.3f} s")
    assert min(seconds) < 0.3, seconds


def test_every_base_module_imports(environment) -> None:
    code = f"""
import importlib, pkgutil, edgevision
for name in {BASE!r}:
    module = importlib.import_module(f"edgevision.{{name}}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
import sys
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert environment.run("-W", "error", "-c", code).stdout.strip() == "[]"


def test_every_help_runs(environment) -> None:
    from edgevision.cli.app import _COMMANDS

    assert "edgevision" in environment.cli("--version").stdout
    for command in ((), *((name.replace("_", "-"),) for name in _COMMANDS)):
        done = environment.cli(*command, "--help")
        assert "Usage: edgevision" in done.stdout


def test_the_runtime_classifies(environment, bundle: Path, photos: Path) -> None:
    done = environment.run(str(ROOT / "examples" / "classify.py"), str(bundle), str(photos))
    lines = done.stdout.splitlines()
    assert "model.fp32.onnx" in lines[0]
    assert [line.split()[:2] for line in lines[1:3]] == [["a.png", "red"], ["b.jpg", "blue"]]
    assert lines[3].startswith("c.png ")
    assert "truncated" in lines[3]


def test_the_commands_for_bundles_work(environment, bundle: Path, photos: Path) -> None:
    assert "every hash is right" in environment.cli("verify", str(bundle)).stdout
    assert "colours" in environment.cli("inspect", str(bundle), "--layers").stdout
    done = environment.cli("run", str(bundle), "--source", str(photos), "--json", check=False)
    assert done.returncode == 3, "one file of the folder is unreadable"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item.get("prediction", {}).get("label") for item in found] == ["red", "blue", None]
    assert "Traceback" not in done.stderr


def test_what_needs_an_extra_says_which(environment, photos: Path) -> None:
    done = environment.cli(
        "train", "plain-cnn", "--data", "fashion-mnist-mini", "--out", "out", check=False
    )
    assert done.returncode == 6, done.stderr
    assert "edgevision[train]" in done.stderr
    assert "Traceback" not in done.stderr
