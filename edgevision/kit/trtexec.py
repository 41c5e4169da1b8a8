"""From ``BuildOptions`` to the options of trtexec, which builds where EdgeVision is not.

Which options a trtexec has is asked on the board, by ``build.sh``; here is only what to ask it for.
Options: NVIDIA's documentation of trtexec, "Command-Line Programs", 8.5 to 11.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgevision.backends.base import BuildOptions
from edgevision.backends.onnx_file import OnnxFile
from edgevision.backends.shapes import InputShapes, shape_text
from edgevision.errors import InputError
from edgevision.kit.contents import KitOptions
from edgevision.types import Precision

# Names of builder flags as TensorRT has them, by the option that sets them.
FLAGS = {
    "--stronglyTyped": "STRONGLY_TYPED",
    "--int8": "INT8",
    "--fp16": "FP16",
    "--sparsity=enable": "SPARSE_WEIGHTS",
    "--versionCompatible": "VERSION_COMPATIBLE",
    "--refit": "REFIT",
    "--allowWeightStreaming": "WEIGHT_STREAMING",
    "--allowGPUFallback": "GPU_FALLBACK",
}


def trtexec_options(
    file: OnnxFile, shapes: Mapping[str, InputShapes], options: BuildOptions
) -> KitOptions:
    """What trtexec is to be called with.

    It has no limit for the memory in which tactics are tried: ``tactic_memory_mb`` is left out.

    Args:
        file: the graph.
        shapes: of its inputs with free axes, by name.
        options: what a build here would be asked for.

    Raises:
        InputError: an input's name cannot be said to trtexec.
    """
    build = []
    if options.workspace_mb is not None:
        build.append(f"--memPoolSize=workspace:{options.workspace_mb}")
    if options.builder_level is not None:
        build.append(f"--builderOptimizationLevel={options.builder_level}")
    for wanted, option in (
        (options.sparsity, "--sparsity=enable"),
        (options.version_compatible, "--versionCompatible"),
        (options.hardware_compatible, "--hardwareCompatibilityLevel=ampere+"),
        (options.refit, "--refit"),
        (options.weight_streaming, "--allowWeightStreaming"),
    ):
        if wanted:
            build.append(option)
    # Without it trtexec refuses to load what brings code for the CPU along.
    measure = ["--versionCompatible"] if options.version_compatible else []
    if shapes:
        for end in ("min", "opt", "max"):
            build.append(f"--{end}Shapes={_spec(shapes, end)}")
        measure.append(f"--shapes={_spec(shapes, 'opt')}")
    if options.dla_core is not None:
        build += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
        measure.append(f"--useDLACore={options.dla_core}")
    flagged = [
        *(["--int8"] if file.is_quantized else []),
        *(["--fp16"] if options.float_precision is Precision.FP16 else []),
    ]
    return KitOptions(build=tuple(build), flagged=tuple(flagged), measure=tuple(measure))


def _spec(shapes: Mapping[str, InputShapes], end: str) -> str:
    """``images:1x3x224x224,mask:1x224x224``; names with a colon are quoted, as trtexec asks for."""
    parts = []
    for name, one in shapes.items():
        if not name.isprintable() or any(sign in name for sign in "',*\\\""):
            raise InputError(
                f"Input {name!r} cannot be named to trtexec, which separates inputs by commas and "
                "names by quotes.",
                hint="Rename the input in the graph.",
            )
        said = f"'{name}'" if ":" in name else name
        parts.append(f"{said}:{shape_text(getattr(one, end))}")
    return ",".join(parts)
