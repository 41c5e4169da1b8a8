"""NVIDIA's own bindings of TensorRT 8.6 to 11.4, imported without TensorRT; needs the network.

The wheels hold the Python module alone. Over empty libraries of the names that it links to it
imports: its classes and enums are real, a builder or runtime is not to be had.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
WHEELS = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
LIBRARIES = ("nvinfer", "nvonnxparser", "nvparsers", "nvinfer_plugin")
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getPluginRegistry"),
    *("initLibNvInferPlugins", "getNvOnnxParserVersion", "getInferLibVersion"),
    # Of the Caffe and UFF parsers, which 8.6 still binds.
    *("_ZN11nvuffparser15createUffParserEv", "_ZN14nvcaffeparser117createCaffeParserEv"),
    *("_ZN14nvcaffeparser123shutdownProtobufLibraryEv",),
    *("_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",),
)


@pytest.fixture(scope="module", params=WHEELS)
def bindings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, str]]:
    """A version, and the environment in which ``tensorrt_bindings`` of it imports."""
    version = request.param
    compiler, uv = shutil.which("cc"), shutil.which("uv")
    if compiler is None or uv is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, a C compiler and uv")
    folder = tmp_path_factory.mktemp(f"trt-{version}")
    done = subprocess.run(
        [uv, "pip", "install", "--no-deps", "--python", sys.executable, "--target", folder,
         WHEELS[version]],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"{WHEELS[version]} does not install here: {done.stderr.strip()[-300:]}")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{version.partition('.')[0]}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source],
            check=True,
        )
    paths = os.pathsep.join((str(folder), str(ROOT)))
    return version, {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths}


def run(environment: dict[str, str], code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_stand_ins_have_exactly_the_names_of_the_bindings(
    bindings: tuple[str, dict[str, str]],
) -> None:
    version, environment = bindings
    found = run(
        environment,
        "import json, tensorrt_bindings as trt\n"
        "from tests.unit.backends.trt_inventory import inventory\n"
        "print(json.dumps(inventory(trt)))",
    )
    known = json.loads((ROOT / "tests/unit/backends/trt_names.json").read_text())
    assert found == known[version]


def test_names_of_rtx_are_those_of_the_installed_module() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    import tensorrt_rtx

    from tests.unit.backends.trt_inventory import inventory

    known = json.loads((ROOT / "tests/unit/backends/trt_names.json").read_text())["rtx-1.7"]
    if tensorrt_rtx.__version__ != known["__version__"]:
        pytest.skip(f"the names are of {known['__version__']}, not {tensorrt_rtx.__version__}")
    assert inventory(tensorrt_rtx) == known


def test_the_path_takes_the_real_module_up_to_the_builder(
    bindings: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Flags by the real enums, logger and monitor of the real base classes; then no builder."""
    from tests.conformance.graphs import quantized_net

    version, environment = bindings
    net = quantized_net(tmp_path / "net.onnx", opset=17)
    code = f"""
import json, types, tensorrt_bindings as trt
from pathlib import Path
from edgevision.backends import _trt_options as options, _trt_log as log
from edgevision.backends._trt_build import build_plan
from edgevision.backends._trt_progress import Watch
from edgevision.backends._trt_runner import deserialize
from edgevision.backends.base import BuildOptions
from edgevision.backends.onnx_file import read_onnx
from edgevision.errors import UnavailableError

flags, told, steps = [], log.Log(), []
logger = log.make_logger(trt, told)
logger.log(trt.ILogger.Severity.ERROR, "bad")
logger.log(trt.ILogger.Severity.WARNING, "so so")
watch = Watch(trt, types.SimpleNamespace(), lambda *step: steps.append(step))
if hasattr(trt, "IProgressMonitor"):
    watch._monitor.phase_start("all", None, 2)
    watch._monitor.step_complete("all", 0)
refused = []
file = read_onnx(Path({str(net)!r}))
for attempt in (lambda: build_plan(trt, file, BuildOptions()),
                lambda: deserialize(trt, b"", "a.engine", told)):
    try:
        attempt()
    except UnavailableError as error:
        refused.append(error.message)
print(json.dumps({{
    "bits": options.network_flags(trt, flags), "flags": flags, "errors": told.errors,
    "steps": steps, "refused": refused,
}}))
"""
    found = run(environment, code)
    typed = ["STRONGLY_TYPED"] if version != "8.6" else []
    batch = [] if version == "11.4" else ["EXPLICIT_BATCH"]
    assert found["flags"] == [*batch, *typed]
    assert found["bits"] == {"8.6": 1, "10.3": 3, "10.13": 3, "11.4": 1}[version]
    assert found["errors"] == ["bad"]
    assert found["steps"] == (
        [] if version == "8.6" else [["engine", 0, 1000], ["engine", 500, 1000]]
    )
    assert found["refused"][0].startswith("The builder could not be made")
    assert found["refused"][1].startswith("'a.engine' cannot be loaded here")
