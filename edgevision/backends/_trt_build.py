"""ONNX → plan, for every TensorRT from 8.5 to 11 and for TensorRT-RTX.

The vendor module comes in as an argument and is asked for what it has: names, never integers,
because members were removed and renumbered between versions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgevision.backends.base import BuildOptions, check_batch
from edgevision.backends.onnx_file import OnnxFile
from edgevision.errors import ModelError, UnavailableError, unknown_name
from edgevision.files import write_atomic

_OLDEST_OPSET = 9
_FOR_CPU = "This graph is quantized for a CPU; emit it with the scheme 'tensorrt'."
_MIB = 1 << 20
_PARTS = 1000  # of a whole build, in reports of progress


@dataclass(frozen=True)
class Built:
    """A plan with what is known of it: flags set, and the layer listing out of the log, if any."""

    plan: bytes
    flags: tuple[str, ...]
    layer_log: str | None


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
        UnavailableError: a compute capability that this builder cannot serve.
    """
    is_rtx = hasattr(trt, "ComputeCapability")
    _check_opset(file, newest_opset(trt.__version__, is_rtx), trt.__version__)
    check_batch(file.inputs, options.batch)
    log = Log()
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    if not builder:
        raise UnavailableError(f"The builder could not be made: {log.reason()}")
    flags: list[str] = []
    network = builder.create_network(_network_flags(trt, flags))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(file.data):
        raise ModelError(_parser_errors(parser, file), hint=_hint(log))
    if log.clips_uint8:
        raise ModelError(
            f"'{file.path.name}' has uint8 Q/DQ, which {trt.__version__} would read as int8: every "
            "value above 127 would be clipped.",
            hint=_FOR_CPU,
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MIB)
    _set_precisions(trt, config, file, flags)
    if is_rtx:
        _set_capabilities(trt, config, options.compute_capabilities)
    _set_profile(builder, config, network, options)
    _use_timing_cache(config, options)
    watch = _Watch(trt, config, options.progress)
    plan = builder.build_serialized_network(network, config)
    if watch.stopped is not None:
        raise watch.stopped
    if plan is None:
        raise ModelError(f"'{file.path.name}' was not built: {log.reason()}", hint=_hint(log))
    _keep_timing_cache(config, options)
    return Built(bytes(plan), tuple(flags), log.layers)


class Log:
    """The vendor's messages of one build: errors for the reason, and the listing of layers."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers: str | None = None
        self.clips_uint8 = False

    def add(self, is_error: bool, message: str) -> None:
        """Keep ``message`` if it is worth keeping."""
        if is_error:
            self.errors.append(" ".join(message.split()))
        elif message.startswith("Layers:"):
            self.layers = message
        elif "UINT8" in message and "INT8 instead" in message:
            self.clips_uint8 = True  # a mere warning of the parser's

    def reason(self) -> str:
        """The errors on one line; what to say when the vendor says nothing."""
        return "; ".join(self.errors) or "the vendor gave no reason"


def make_logger(trt: Any, log: Log) -> Any:
    """A vendor logger that writes into ``log``; keep it as long as what was made with it."""
    errors = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity in errors, message)

    return Logger()


def _check_opset(file: OnnxFile, newest: int, version: str) -> None:
    opset = file.opsets.get("", 0)
    if not _OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"'{file.path.name}' is of ONNX opset {opset}; the parser of {version} reads "
            f"{_OLDEST_OPSET} to {newest}.",
            hint="Export it with the target's opset, see `edgevision targets`.",
        )


def _network_flags(trt: Any, flags: list[str]) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    value = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        member = getattr(kinds, name, None)
        if member is not None:
            value |= 1 << int(member)
            flags.append(name)
    return value


def _set_precisions(trt: Any, config: Any, file: OnnxFile, flags: list[str]) -> None:
    """Only TensorRT 8 is told; later networks are strongly typed and take it from the graph."""
    if "STRONGLY_TYPED" in flags or not file.is_quantized:
        return
    for name in ("INT8", "FP16"):
        config.set_flag(getattr(trt.BuilderFlag, name))
        flags.append(name)


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


def _set_profile(builder: Any, config: Any, network: Any, options: BuildOptions) -> None:
    """One optimization profile over the batch; other axes must be fixed."""
    batch = options.batch
    profile = builder.create_optimization_profile()
    is_dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if all(size >= 0 for size in shape):
            continue
        is_dynamic = True
        if shape[0] >= 0 or any(size < 0 for size in shape[1:]):
            raise ModelError(
                f"Input '{tensor.name}' has the shape {list(shape)} (-1 is free); "
                "only the first axis, the batch, may be free.",
                hint="Export the model with a fixed image size.",
            )
        profile.set_shape(
            tensor.name,
            (batch.min, *shape[1:]),
            (batch.opt, *shape[1:]),
            (batch.max, *shape[1:]),
        )
    if is_dynamic and config.add_optimization_profile(profile) < 0:
        raise ModelError(f"Batch {batch.min} to {batch.max} makes no optimization profile.")


def _use_timing_cache(config: Any, options: BuildOptions) -> None:
    path = options.timing_cache
    if path is None:
        return
    known = path.read_bytes() if path.is_file() else b""
    # Without ignore_mismatch: timings of another device or version build slow or wrong engines.
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timing_cache(config: Any, options: BuildOptions) -> None:
    cache = config.get_timing_cache() if options.timing_cache is not None else None
    if cache is not None and options.timing_cache is not None:
        write_atomic(options.timing_cache, bytes(cache.serialize()))


class _Watch:
    """Reports to ``progress``; what that raises stops the build and is kept in ``stopped``.

    An exception must not cross the vendor's frames, Ctrl-C in a callback included. Keep this object
    until the build is over: the vendor's config holds no reference to the monitor.
    """

    def __init__(
        self, trt: Any, config: Any, progress: Callable[[str, int, int], None] | None
    ) -> None:
        self.stopped: BaseException | None = None
        self._running: dict[str, list[int]] = {}  # phase → steps and those done, outermost first
        self._told = -1
        self._progress = progress
        if progress is not None and hasattr(trt, "IProgressMonitor"):
            self._monitor = _make_monitor(trt, self)
            config.progress_monitor = self._monitor

    def start(self, phase: str, steps: int) -> None:
        """A phase begins, inside those that run."""
        self._running[phase] = [max(steps, 1), 0]
        self._tell()

    def step(self, phase: str, done: int) -> bool:
        """``done`` steps of a phase are done; True to carry on."""
        if phase in self._running:
            self._running[phase][1] = done
        self._tell()
        return self.stopped is None

    def finish(self, phase: str) -> None:
        """A phase is over."""
        self._running.pop(phase, None)
        if not self._running:
            self._tell()

    def _tell(self) -> None:
        """Phases nest: a phase's steps share out one step of the phase around it."""
        value, share = (0.0 if self._running else 1.0), 1.0
        for steps, done in self._running.values():
            value += share * done / steps
            share /= steps
        parts = int(_PARTS * value)
        if self._progress is None or self.stopped is not None or parts <= self._told:
            return
        self._told = parts
        try:
            self._progress("engine", parts, _PARTS)
        except BaseException as error:  # noqa: BLE001 - raised again after the build
            self.stopped = error


def _make_monitor(trt: Any, watch: _Watch) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            watch.start(phase, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return watch.step(phase, step + 1)

        def phase_finish(self, phase: str) -> None:
            watch.finish(phase)

    return Monitor()


def _parser_errors(parser: Any, file: OnnxFile) -> str:
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        lines.append(_parser_error(error, file))
    return f"'{file.path.name}' was not parsed: {'; '.join(lines) or 'no reason given'}"


def _parser_error(error: Any, file: OnnxFile) -> str:
    reason = " ".join(error.desc().split())
    number = error.node()
    if not 0 <= number < len(file.nodes):
        return reason
    node = file.nodes[number]
    operator = f"{node.domain}.{node.operator}" if node.domain else node.operator
    name = node.name or (node.outputs[0] if node.outputs else "")
    if "Plugin not found" in reason:
        reason = "no such operator, and no plugin of that name"
    return f"node {number} '{name}' ({operator}): {reason}"


def _hint(log: Log) -> str | None:
    reason = log.reason()
    if "workspace" in reason:
        return "Allow more scratch memory: --workspace-mb, or leave it out."
    if "no optimization profile" in reason:
        return "Give the batch sizes: --min-batch, --opt-batch, --max-batch."
    if "zero point" in reason:
        return _FOR_CPU
    return None
