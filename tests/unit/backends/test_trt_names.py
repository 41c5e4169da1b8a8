"""Every vendor name that the code can reach exists in each version that it serves.

Twice over: by running the whole path against each version's stand-in with all that this version
has, and by reading off the source which names are taken from the vendor's objects at all.
"""

from __future__ import annotations

import ast
import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from edgevision.backends import (
    _trt_build,
    _trt_cache,
    _trt_log,
    _trt_options,
    _trt_profiles,
    _trt_progress,
    _trt_runner,
)
from edgevision.backends._trt_build import build_plan
from edgevision.backends._trt_log import Log
from edgevision.backends._trt_runner import TensorRTRunner, deserialize
from edgevision.backends._trt_runner import inspect as report
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.errors import ModelError, UnavailableError
from edgevision.types import Precision
from tests.conformance.graphs import images, quantized_net
from tests.unit.backends.vendor import IN_8, VERSIONS, HostCuda, Script, names, plan, vendor

MODULES = (
    _trt_build, _trt_cache, _trt_log, _trt_options, _trt_profiles, _trt_progress, _trt_runner,
)  # fmt: skip
# The vendor's class by what the code calls its objects.
CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "inspector": "EngineInspector",
    "pools": "MemoryPoolType",
    "levels": "HardwareCompatibilityLevel",
}
# Names that the code takes only where another one was found.
FOUND_WITH = {
    "HardwareCompatibilityLevel.AMPERE_PLUS": "HardwareCompatibilityLevel",
    "IBuilderConfig.hardware_compatibility_level": "HardwareCompatibilityLevel",
    "IBuilderConfig.progress_monitor": "IProgressMonitor",
    "IBuilderConfig.num_compute_capabilities": "ComputeCapability",
    "IBuilderConfig.set_compute_capability": "ComputeCapability",
    "ComputeCapability.CURRENT": "ComputeCapability",
    "ICudaEngine.weight_streaming_budget_v2": "ICudaEngine.streamable_weights_size",
    "ICudaEngine.get_weight_streaming_automatic_budget": "ICudaEngine.streamable_weights_size",
    "ParserError.node_operator": "ParserError.node_name",
}
# Asked for by hasattr, getattr or _require before they are used.
PROBED = {
    "ComputeCapability",
    "HardwareCompatibilityLevel",
    "IProgressMonitor",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "MemoryPoolType.TACTIC_DRAM",
    "IBuilderConfig.builder_optimization_level",
    "Runtime.engine_host_code_allowed",
    "ICudaEngine.streamable_weights_size",
    "ParserError.node_name",
}


@pytest.fixture
def net(tmp_path: Path) -> OnnxFile:
    return read_onnx(quantized_net(tmp_path / "net.onnx", opset=17))


def everything(version: str, cache: Path) -> BuildOptions:
    """A build with all options that ``version`` has."""
    since_8_6: dict[str, Any] = {
        "builder_level": 3, "hardware_compatible": True, "version_compatible": True,
    }  # fmt: skip
    return BuildOptions(
        batch=ShapeRange(4, 4, 4),
        compute_capabilities=("86",) if version.startswith("rtx") else (),
        float_precision=Precision.FP16,
        workspace_mb=64,
        tactic_memory_mb=128,
        timing_cache=cache,
        dla_core=0,
        sparsity=True,
        refit=True,
        weight_streaming=version not in IN_8,
        progress=lambda *step: None,
        **({} if version == "8.5" else since_8_6),
    )


def run_all(version: str, net: OnnxFile, cache: Path) -> set[str]:
    """Build, report, run and fail in every way; the vendor's names that were reached."""
    script = Script()
    script.streamable = 1 << 20
    script.inspector = '{"Layers": []}'
    trt = vendor(version, script)
    if version not in IN_8:
        script.phases = [("start", "whole", 1), ("step", "whole", 0), ("finish", "whole", 0)]
    for _ in range(2):
        build_plan(trt, net, everything(version, cache))
    script.phases = []
    owners = deserialize(trt, plan(), "a", Log(), dla_core=0, host_code=True)
    assert report(trt, owners[2]) == script.inspector
    with TensorRTRunner.open(trt, plan(), "a", HostCuda()) as runner:  # type: ignore[arg-type]
        batch = images(2)
        assert (runner.infer({"images": batch})["logits"] == batch * 2).all()
    script.parser_errors = [("no", 3), ("no", 99)]
    with pytest.raises(ModelError, match="not parsed"):
        build_plan(trt, net, everything(version, cache))
    script.parser_errors = []
    script.build_error = "no tactics"
    with pytest.raises(ModelError, match="not built"):
        build_plan(trt, net, everything(version, cache))
    return script.reached


# Reached in every version; and from which version on the others.
ALWAYS = {
    "Builder.create_network", "Builder.create_builder_config", "Builder.num_DLA_cores",
    "Builder.create_optimization_profile", "Builder.build_serialized_network",
    "BuilderFlag.SPARSE_WEIGHTS", "BuilderFlag.REFIT", "BuilderFlag.GPU_FALLBACK",
    "DeviceType.DLA", "MemoryPoolType.WORKSPACE", "ProfilingVerbosity.DETAILED",
    "IBuilderConfig.set_flag", "IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.DLA_core",
    "IBuilderConfig.profiling_verbosity", "IBuilderConfig.default_device_type",
    "IBuilderConfig.can_run_on_DLA", "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache",
    "IBuilderConfig.get_timing_cache", "ITimingCache.serialize", "IOptimizationProfile.set_shape",
    "INetworkDefinition.num_inputs", "INetworkDefinition.get_input", "ITensor.name",
    "ITensor.shape", "INetworkDefinition.num_layers", "INetworkDefinition.get_layer",
    "ILayer.name", "ILayer.type", "LayerType.CONSTANT", "OnnxParser.parse",
    "OnnxParser.num_errors", "OnnxParser.get_error", "ParserError.desc", "ParserError.node",
    "Runtime.DLA_core", "Runtime.deserialize_cuda_engine", "ICudaEngine.create_engine_inspector",
    "ICudaEngine.create_execution_context", "ICudaEngine.num_io_tensors",
    "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_shape",
    "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_profile_shape", "TensorIOMode.INPUT",
    "IExecutionContext.set_input_shape", "IExecutionContext.get_tensor_shape",
    "IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3",
    "EngineInspector.get_engine_information", "LayerInformationFormat.JSON",
}  # fmt: skip
LATER = {
    "BuilderFlag.INT8": {"8.5", "8.6"},
    "BuilderFlag.FP16": {"8.5", "8.6"},
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": {"8.5", "8.6", "10.3", "10.13"},
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "IBuilderConfig.builder_optimization_level": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "IBuilderConfig.hardware_compatibility_level": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "HardwareCompatibilityLevel.AMPERE_PLUS": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "BuilderFlag.VERSION_COMPATIBLE": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "MemoryPoolType.TACTIC_DRAM": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "Runtime.engine_host_code_allowed": {"8.6", "10.3", "10.13", "11.4", "rtx-1.7"},
    "BuilderFlag.WEIGHT_STREAMING": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "ICudaEngine.weight_streaming_budget_v2": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "ICudaEngine.get_weight_streaming_automatic_budget": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "IBuilderConfig.progress_monitor": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "ParserError.node_name": {"10.3", "10.13", "11.4", "rtx-1.7"},
    "IBuilderConfig.num_compute_capabilities": {"rtx-1.7"},
    "IBuilderConfig.set_compute_capability": {"rtx-1.7"},
    "ComputeCapability.SM86": {"rtx-1.7"},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_path_reaches_names_of_that_version(
    version: str, net: OnnxFile, tmp_path: Path
) -> None:
    reached = run_all(version, net, tmp_path / "timing.cache")
    assert reached <= names(version)
    assert reached >= ALWAYS
    for name, having in LATER.items():
        assert (name in reached) == (version in having), name


def taken() -> set[str]:
    """Names that the sources take from the vendor module and from objects of its classes."""
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                found |= _name_of(node)
    return found


def _name_of(node: ast.Attribute) -> set[str]:
    owner = node.value
    if node.attr.startswith("__"):
        return set()
    if isinstance(owner, ast.Name) and owner.id == "trt":
        return {node.attr}
    if isinstance(owner, ast.Attribute) and ast.unparse(owner).startswith("trt."):
        return {f"{owner.attr}.{node.attr}"}
    called = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return {f"{CLASS_OF[called]}.{node.attr}"} if called in CLASS_OF else set()


def test_each_name_in_the_source_exists_and_unguarded_ones_exist_everywhere() -> None:
    found = taken()
    assert len(found) > 60, "the reading of the source itself"
    assert {"Builder", "BuilderFlag.GPU_FALLBACK", "IExecutionContext.execute_async_v3"} <= found
    assert found >= FOUND_WITH.keys() - {"ParserError.node_operator"}, "no longer used: leave out"
    for name in found:
        assert any(name in names(version) for version in VERSIONS), f"{name} exists nowhere"
        guard = name if name in PROBED else FOUND_WITH.get(name)
        for version in VERSIONS:
            if guard is None or guard in names(version):
                assert name in names(version), f"{name} is missing in {version}"


def test_what_is_said_to_be_probed_is() -> None:
    """Each name of ``PROBED`` is a string that hasattr, getattr or _require gets, or a loop."""
    probes = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("hasattr", "getattr", "_require"):
                texts = [one.value for one in node.args if isinstance(one, ast.Constant)]  # type: ignore[attr-defined]
                probes |= {text for text in texts if isinstance(text, str)}
    probes |= {"EXPLICIT_BATCH"}  # by a loop over two names, each by getattr with a default
    assert {name.rpartition(".")[2] for name in PROBED} <= probes


# An option asked for would be lost without them; without the others the build does without.
REFUSED = (
    "HardwareCompatibilityLevel",
    "IBuilderConfig.builder_optimization_level",
    "BuilderFlag.SPARSE_WEIGHTS",
    "BuilderFlag.REFIT",
    "BuilderFlag.VERSION_COMPATIBLE",
    "BuilderFlag.WEIGHT_STREAMING",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_taken_away_leads_to_the_fallback_or_a_message(
    version: str, net: OnnxFile, tmp_path: Path
) -> None:
    probed = {name for name in PROBED if name in names(version)}
    for name in sorted(probed | {name for name in REFUSED if name in names(version)}):
        if name == "ComputeCapability" or name.startswith("NetworkDefinition"):
            continue  # they tell one kind of module from another; below
        script = Script()
        trt = vendor(version, script, without=(name,))
        refused = name in REFUSED
        told = pytest.raises(UnavailableError, match=f"'{name.rpartition('.')[2]}'")
        with told if refused else nullcontext():
            build_plan(trt, net, everything(version, tmp_path / name))
        assert ("Builder.build_serialized_network" in script.calls) != refused, name
        deserialize(trt, plan(), "a", Log(), host_code=True)


@pytest.mark.parametrize("version", ["10.3", "10.13"])
def test_without_strong_typing_the_flags_are_set(version: str, net: OnnxFile) -> None:
    script = Script()
    trt = vendor(version, script, without=("NetworkDefinitionCreationFlag.STRONGLY_TYPED",))
    build_plan(trt, net, BuildOptions(batch=ShapeRange(1, 4, 8)))
    assert {"flag INT8", "flag FP16"} <= set(script.calls)
