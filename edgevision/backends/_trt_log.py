"""What the vendor says while it parses, builds and loads, and how it is told in one message."""

from __future__ import annotations

import re
from typing import Any

from edgevision.backends.onnx_file import OnnxFile

FOR_CPU = "This graph is quantized for a CPU; emit it with the scheme 'tensorrt'."
# Where in the vendor's sources a message arose: of no use to who reads it.
_ORIGIN = re.compile(r"\s*\[\w+\.\w+::\S+::\d+\]\s*|\s*\bIn \S+ at /\S+:\d+\b")
# Where one of the errors that the vendor strings together ends and the next begins.
_NEXT = re.compile(r"(?<=\)) (?=(?:\S+: )?Error Code \d)")
_INVALID = re.compile(r"\AInvalid Node - .*\n")  # the node is named in our own words
# Goes with every error on a machine without a driver, which an ahead-of-time build does not need.
_NO_DRIVER = re.compile(r".*\bCuda Runtime \( ?\(?cudaError 35\b.*")
# A hint by what the reason holds, the first that fits.
_HINTS = (
    ("workspace", "Allow more scratch memory: --workspace-mb, or leave it out."),
    (
        "no optimization profile",
        "Give the sizes: --min-batch, --opt-batch, --max-batch, or --min-shapes, --opt-shapes, "
        "--max-shapes.",
    ),
    ("zero point", FOR_CPU),
    ("out of memory", "Lower --workspace-mb or --builder-level, and stop what else runs there."),
)


class Log:
    """The vendor's messages of one build: errors for the reason, and the listing of layers."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers: str | None = None
        self.clips_uint8 = False

    def add(self, is_error: bool, message: str) -> None:
        """Keep ``message`` if it is worth keeping."""
        if is_error:
            self.errors += _pieces(message)
        elif message.startswith("Layers:"):
            self.layers = message
        elif "UINT8" in message and "INT8 instead" in message:
            self.clips_uint8 = True  # a mere warning of the parser's

    def reason(self) -> str:
        """The errors on one line, each once; what to say when the vendor says nothing."""
        return _joined(self.errors) or "the vendor gave no reason"

    def hint(self) -> str | None:
        """The way out, where the reason has a known one."""
        reason = self.reason()
        return next((hint for part, hint in _HINTS if part in reason), None)


def make_logger(trt: Any, log: Log) -> Any:
    """A vendor logger that writes into ``log``; keep it as long as what was made with it."""
    errors = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity in errors, message)

    return Logger()


def parser_errors(parser: Any, file: OnnxFile) -> str:
    """All errors of ``parser`` in one message, each with the node it is about."""
    lines = [_parser_error(parser.get_error(index), file) for index in range(parser.num_errors)]
    return f"'{file.path.name}' was not parsed: {'; '.join(lines) or 'no reason given'}"


def _parser_error(error: Any, file: OnnxFile) -> str:
    reason = _joined(_pieces(_INVALID.sub("", error.desc())))
    if "Plugin not found" in reason:
        reason = "no such operator, and no plugin of that name"
    name, operator = _node_of(error, file)
    return f"node {error.node()} '{name}' ({operator}): {reason}" if operator else reason


def _node_of(error: Any, file: OnnxFile) -> tuple[str, str]:
    """Name and operator of the node that ``error`` is about, empty where it is about none.

    The number counts within a subgraph or function too: there the vendor's own name decides, which
    TensorRT 8 does not give.
    """
    told = getattr(error, "node_name", None)
    name, operator = (told() if told else ""), (error.node_operator() if told else "")
    number = error.node()
    if not 0 <= number < len(file.nodes):
        return name, operator
    node = file.nodes[number]
    if operator and operator != node.operator:
        return name, operator
    full = f"{node.domain}.{node.operator}" if node.domain else node.operator
    return node.name or name or (node.outputs[0] if node.outputs else ""), full


def _pieces(text: str) -> list[str]:
    return _NEXT.split(" ".join(_ORIGIN.sub(" ", text).split()).replace(" )", ")"))


def _joined(errors: list[str]) -> str:
    told = [error for error in errors if not _NO_DRIVER.fullmatch(error)]
    return "; ".join(dict.fromkeys(told or errors))
