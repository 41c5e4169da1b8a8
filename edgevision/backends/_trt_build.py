"""ONNX → plan, for every TensorRT from 8.5 to 11 and for TensorRT-RTX.

The vendor module comes in as an argument and is asked for what it has: names, never integers,
because members were removed and renumbered between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgevision.backends._trt_cache import keep_timing_cache, use_timing_cache
from edgevision.backends._trt_log import FOR_CPU, Log, make_logger, parser_errors
from edgevision.backends._trt_options import configure, is_rtx, network_flags, use_dla
from edgevision.backends._trt_profiles import set_profile
from edgevision.backends._trt_progress import Watch
from edgevision.backends.base import BuildOptions, check_batch
from edgevision.backends.onnx_file import OnnxFile
from edgevision.errors import ModelError, UnavailableError

_OLDEST_OPSET = 9


@dataclass(frozen=True)
class Built:
    """A plan with what is known of it.

    ``flags`` were set; ``layer_log`` is the listing of layers out of the log, if any; layers named
    in ``dla_fallback`` run on the GPU though a DLA core was asked for.
    """

    plan: bytes
    flags: tuple[str, ...]
    layer_log: str | None
    dla_fallback: tuple[str, ...] = ()


def newest_opset(version: str, is_rtx: bool) -> int:
    """The highest opset that the parser of ``version`` documents; above it parses and may be wrong.

    From operators.md of onnx-tensorrt at each release; TensorRT-RTX 1.x carries 11's parser.
    """
    major, _, rest = version.partition(".")
    minor = int(rest.partition(".")[0] or 0)
    if is_rtx or int(major) >= 11:
        return 25
    if int(major) == 10:
        return 22 if minor >= 8 else 20
    return 17


def build_plan(trt: Any, file: OnnxFile, options: BuildOptions) -> Built:
    """Build ``file`` with the vendor module ``trt``.

    Raises:
        ModelError: the parser or the builder refuses the graph; names node, operator and reason.
        UnavailableError: a compute capability or an option that this builder does not have.
        UsageError: shapes of an input that the graph has not.
    """
    check_opset(file, trt.__version__, is_rtx(trt))
    check_batch(
        tuple(spec for spec in file.inputs if spec.name not in options.shapes), options.batch
    )
    log = Log()
    logger = make_logger(trt, log)
    builder = _made(trt.Builder, logger, log)
    flags: list[str] = []
    network = builder.create_network(network_flags(trt, flags))
    config = builder.create_builder_config()
    flags += configure(trt, config, file, options)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(file.data):
        raise ModelError(parser_errors(parser, file), hint=log.hint())
    if log.clips_uint8:
        raise ModelError(
            f"'{file.path.name}' has uint8 Q/DQ, which {trt.__version__} would read as int8: every "
            "value above 127 would be clipped.",
            hint=FOR_CPU,
        )
    set_profile(builder, config, network, options)
    fallback: tuple[str, ...] = ()
    if options.dla_core is not None:
        fallback = use_dla(trt, builder, config, network, options.dla_core, flags)
    if options.timing_cache is not None:
        use_timing_cache(config, options.timing_cache, trt.__version__)
    watch = Watch(trt, config, options.progress)
    plan = builder.build_serialized_network(network, config)
    if watch.stopped is not None:
        raise watch.stopped
    if plan is None:
        raise ModelError(f"'{file.path.name}' was not built: {log.reason()}", hint=log.hint())
    if options.timing_cache is not None:
        keep_timing_cache(config, options.timing_cache, trt.__version__)
    return Built(bytes(plan), tuple(flags), log.layers, fallback)


def _made(builder: Any, logger: Any, log: Log) -> Any:
    """The builder; without GPU or driver the bindings get none and raise a TypeError."""
    try:
        return builder(logger)
    except TypeError as error:
        raise UnavailableError(f"The builder could not be made: {log.reason()}") from error


def check_opset(file: OnnxFile, version: str, is_rtx: bool) -> None:
    """Refuse a graph that the parser of ``version`` does not know the opset of.

    Raises:
        ModelError: its opset is too old or too new.
    """
    opset, newest = file.opsets.get("", 0), newest_opset(version, is_rtx)
    if not _OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"'{file.path.name}' is of ONNX opset {opset}; the parser of {version} reads "
            f"{_OLDEST_OPSET} to {newest}.",
            hint="Export it with the target's opset, see `edgevision targets`.",
        )
