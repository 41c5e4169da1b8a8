"""Clean environments with the base install alone, one a Python version; they need the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the base install."""

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python, away from the checkout and its settings."""
        return run([str(self.python), *command], cwd=self.folder, check=check)

    def cli(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the environment's ``edgevision``."""
        program = self.python.with_name("edgevision")
        return run([str(program), *command], cwd=self.folder, check=check)


def run(
    command: list[str], *, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environ["COLUMNS"] = "200"
    done = subprocess.run(command, cwd=cwd, env=environ, text=True, capture_output=True)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def interpreter(version: str) -> str | None:
    """A Python of that version on this machine, None if there is none."""
    found = [sys.executable] if sys.version.startswith(f"{version}.") else []
    found += [shutil.which(f"python{version}") or ""]
    found += [str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    if shutil.which("uv"):
        offered = subprocess.run(
            ["uv", "python", "find", "--no-python-downloads", version],
            text=True,
            capture_output=True,
        )
        found.append(offered.stdout.strip())
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, found):
        try:
            answer = subprocess.run([candidate, "-c", ask], text=True, capture_output=True)
        except OSError:
            continue
        # Shims answer by name for versions that are not there; only the interpreter's word counts.
        if answer.stdout.strip() == version:
            return candidate
    return None


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, as it would be published."""
    out = tmp_path_factory.mktemp("wheel")
    if shutil.which("uv"):
        run(["uv", "build", "--wheel", "--out-dir", str(out), str(ROOT)])
    else:
        run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(out), str(ROOT)])
    return next(out.glob("edgevision-*.whl"))


@pytest.fixture(scope="session", params=VERSIONS)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path
) -> Environment:
    version: str = request.param
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    folder = tmp_path_factory.mktemp(f"env{version.replace('.', '')}")
    made = Environment(folder, version)
    if shutil.which("uv"):
        run(["uv", "venv", "--python", python, "--clear", str(folder)])
        run(["uv", "pip", "install", "--python", str(made.python), str(wheel)])
    else:
        run([python, "-m", "venv", str(folder)])
        run([str(made.python), "-m", "pip", "install", "--no-compile", str(wheel)])
    return made


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network says which colour channel is the brightest."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact
    from edgevision.bundle import BundleWriter, Lineage
    from edgevision.preprocessing import Preprocessing
    from edgevision.types import TensorSpec

    folder = tmp_path_factory.mktemp("bundle")
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32) * 8, "weight")],
    )
    path = folder / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    with BundleWriter(
        folder / "bundle",
        task="classification",
        labels=["red", "green", "blue"],
        target="cpu",
        inputs=[TensorSpec("input", ("batch", 3, 8, 8))],
        outputs=[TensorSpec("logits", ("batch", 3))],
        preprocessing=Preprocessing(8, 8),
    ) as writer:
        writer.add_file(path, "model.fp32.onnx", kind="onnx", role="baseline", precision="fp32")
        generator = np.random.default_rng(0)
        images = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(4)]
        tensor = writer.add_golden_inputs(images)
        with get_backend("onnxruntime").open(Artifact("onnxruntime", path)) as runner:
            writer.add_golden_outputs("model.fp32.onnx", runner.infer({"input": tensor}))
        writer.finish(lineage=Lineage(model="colours"))
    return folder / "bundle"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a red and a blue image, a truncated one, and a file that is no image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (30, 20), (220, 30, 30)).save(folder / "a.png")
    Image.new("RGB", (30, 20), (30, 30, 220)).save(folder / "b.jpg")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:50])
    (folder / "notes.txt").write_text("no image")
    return folder
