"""From ``BuildOptions`` to the vendor's config, by asking the vendor module what it has."""

from __future__ import annotations

from typing import Any

from edgevision.backends.base import BuildOptions
from edgevision.backends.onnx_file import OnnxFile
from edgevision.errors import UnavailableError, unknown_name
from edgevision.types import Precision

_MIB = 1 << 20
# Options that are one builder flag each.
_FLAGS = {
    "sparsity": "SPARSE_WEIGHTS",
    "version_compatible": "VERSION_COMPATIBLE",
    "refit": "REFIT",
    "weight_streaming": "WEIGHT_STREAMING",
}


def network_flags(trt: Any, flags: list[str]) -> int:
    """Bits for ``create_network``: the batch among the shapes, types out of the graph."""
    kinds = trt.NetworkDefinitionCreationFlag
    value = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        member = getattr(kinds, name, None)
        if member is not None:
            value |= 1 << int(member)
            flags.append(name)
    return value


def configure(trt: Any, config: Any, file: OnnxFile, options: BuildOptions) -> list[str]:
    """Set all of ``options`` that does not depend on the parsed network; the flags set, by name.

    Raises:
        UnavailableError: this TensorRT has no such option; names it.
    """
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    pools = trt.MemoryPoolType
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(pools.WORKSPACE, options.workspace_mb * _MIB)
    if options.tactic_memory_mb is not None and hasattr(pools, "TACTIC_DRAM"):  # from 8.6
        config.set_memory_pool_limit(pools.TACTIC_DRAM, options.tactic_memory_mb * _MIB)
    if options.builder_level is not None:
        _require(trt, config, "builder_optimization_level", "builder_level")
        config.builder_optimization_level = options.builder_level
    if options.hardware_compatible:
        levels = _require(trt, trt, "HardwareCompatibilityLevel", "hardware_compatible")
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    flags = _precisions(trt, file, options)
    for option, name in _FLAGS.items():
        if getattr(options, option):
            _require(trt, trt.BuilderFlag, name, option)
            flags.append(name)
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if is_rtx(trt):
        _set_capabilities(trt, config, options.compute_capabilities)
    return flags


def is_rtx(trt: Any) -> bool:
    """Whether the module is TensorRT-RTX, which builds for GPUs that are not here."""
    return hasattr(trt, "ComputeCapability")


def is_strongly_typed(trt: Any) -> bool:
    """Whether networks take every precision from the graph (10 and later), and no flag sets any."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def use_dla(
    trt: Any, builder: Any, config: Any, network: Any, core: int, flags: list[str]
) -> tuple[str, ...]:
    """Put on DLA ``core`` what it can run; names of the layers that stay on the GPU.

    Raises:
        UnavailableError: there is no such core, or it can run no layer of ``network``.
    """
    found = builder.num_DLA_cores
    if core >= found:
        raise UnavailableError(
            f"There is no DLA core {core} here: TensorRT {trt.__version__} finds {found}.",
            hint="Leave --dla-core out: the engine then runs on the GPU.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    flags.append("GPU_FALLBACK")
    every = [network.get_layer(index) for index in range(network.num_layers)]
    layers = [layer for layer in every if layer.type != trt.LayerType.CONSTANT]
    fallback = tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))
    if len(fallback) == len(layers):
        raise UnavailableError(
            f"None of the {len(layers)} layers can run on the DLA.",
            hint="It computes in FP16 or INT8, at fixed shapes; leave --dla-core out.",
        )
    return fallback


def _require(trt: Any, owner: Any, name: str, option: str) -> Any:
    """``owner.name``, or a message that this version does not have the option."""
    if not hasattr(owner, name):
        raise UnavailableError(
            f"TensorRT {trt.__version__} has no '{name}', which --{option.replace('_', '-')} "
            "needs.",
            hint="Leave the option out, or build with a later TensorRT.",
        )
    return getattr(owner, name)


def _precisions(trt: Any, file: OnnxFile, options: BuildOptions) -> list[str]:
    """Only TensorRT 8 is told; later networks are strongly typed and take it from the graph."""
    if is_strongly_typed(trt):
        return []
    wanted = options.float_precision
    if wanted is None:
        wanted = Precision.FP16 if file.is_quantized else Precision.FP32
    return [
        *(["INT8"] if file.is_quantized else []),
        *(["FP16"] if wanted is Precision.FP16 else []),
    ]


def _set_capabilities(trt: Any, config: Any, wanted: tuple[str, ...]) -> None:
    known = rtx_capabilities(trt)
    for name in wanted:
        if name == "75":
            raise UnavailableError(
                "TensorRT-RTX would build compute capability 75 (Turing) in FP32 altogether, "
                "and with it the whole engine, whatever else is named.",
                hint=f"Name others: {', '.join(known)}.",
            )
        if name not in known:
            raise UnavailableError(
                unknown_name("compute capability for TensorRT-RTX", name, known),
                hint="TensorRT-RTX does not serve Jetson modules or data-centre Hopper GPUs.",
            )
    members = [getattr(trt.ComputeCapability, f"SM{name}") for name in wanted]
    if not members:
        members = [trt.ComputeCapability.CURRENT]
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        if not config.set_compute_capability(member, index):
            raise UnavailableError(f"The builder refuses compute capability {member}.")


def rtx_capabilities(trt: Any) -> list[str]:
    """Compute capabilities that TensorRT-RTX builds in INT8, e.g. ``["80", "86", …]``."""
    names = [name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return sorted((name for name in names if name != "75"), key=int)
