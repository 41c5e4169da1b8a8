"""A board for kits: the files of a Jetson, and stand-ins for the tools that JetPack brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgevision.backends.base import ShapeRange
from edgevision.bundle import BundleWriter, Lineage
from edgevision.kit import write_kit
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.devices.jetson_trees import ORIN_NANO_6, write_tree

FAKE = Path(__file__).with_name("fake_trtexec.py")
pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="build.sh runs on Linux")


@dataclass
class Board:
    """Runs ``build.sh`` as on a Jetson with a trtexec of ``version``."""

    folder: Path
    version: str = "10.3.0"
    shell: tuple[str, ...] = ("sh",)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.root = write_tree(self.folder / "root", ORIN_NANO_6)
        self.tools = self.folder / "tools"
        self.tools.mkdir()
        self.use(self.version)
        self.tool("nvpmodel", "echo 'NV Power Mode: 15W'; echo 0")
        self.tool("jetson_clocks", "echo 'SOC family:tegra234  Machine:Jetson'")
        self.tool(
            "dpkg-query", "echo 'ii  libnvinfer10 10.3.0.30-1+cuda12.5'; echo 'ii  vim 2:8.2'"
        )

    def tool(self, name: str, body: str) -> Path:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def use(self, version: str) -> None:
        self.tool("trtexec", f"exec '{sys.executable}' -S -E '{FAKE}' {version} \"$@\"")

    @property
    def calls(self) -> list[list[str]]:
        """What trtexec was called with, other than for its help."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, kit: Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.shell, str(kit / "build.sh")],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PATH": f"{self.tools}:{os.environ['PATH']}",
                "TRTEXEC": str(self.tools / "trtexec"),
                "KIT_ROOT": str(self.root),
                "FAKE_CALLS": str(self.folder / "calls"),
                **self.environment,
                **environment,
            },
        )

    def run(self, kit: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(kit, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def make_board(tmp_path: Path) -> Callable[..., Board]:
    def make(version: str = "10.3.0", **options: object) -> Board:
        folder = tmp_path / "the board"
        folder.mkdir()
        return Board(folder, version, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def board(make_board: Callable[..., Board]) -> Board:
    return make_board()


def bundle_of(folder: Path) -> Path:
    """A bundle with an INT8 graph for TensorRT."""
    place = folder / "bundle"
    with BundleWriter(
        place,
        task="classification",
        labels=[str(number) for number in range(10)],
        target="jetson-orin-nano",
        inputs=[TensorSpec("images", ("batch", 3, 16, 16))],
        outputs=[TensorSpec("logits", ("batch", 10))],
        preprocessing=Preprocessing(height=16, width=16),
    ) as writer:
        writer.add_file(
            float_net(folder / "float.onnx"), "model.fp32.onnx", kind="onnx", role="baseline",
            backend="onnxruntime", precision="fp32",
        )  # fmt: skip
        writer.add_file(
            quantized_net(folder / "int8.onnx"), "model.int8.tensorrt.onnx", kind="onnx",
            role="shipped", backend="onnxruntime", precision="int8", scheme="tensorrt",
        )  # fmt: skip
        writer.finish(lineage=Lineage(model="net"))
    return place


@dataclass(frozen=True)
class Finished:
    """A bundle, its kit, and the kit's result."""

    bundle: Path
    kit: Path

    @property
    def archive(self) -> Path:
        return self.kit / "result.tar.gz"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made once; copy what you change."""
    folder = tmp_path_factory.mktemp("finished")
    bundle, kit = bundle_of(folder), folder / "kit"
    write_kit(bundle, "jetson-orin-nano@6.2", kit, batch=ShapeRange(2, 4, 8))
    board = Board(folder / "board")
    done = board.run(kit)
    assert done.returncode == 0, done.stderr
    return Finished(bundle, kit)
