"""Run an ONNX model that is held in memory, with one clear error where ONNX Runtime will not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.errors import ModelError

Arrays = list[npt.NDArray[Any]]


class ValueFacts(NamedTuple):
    """What ONNX Runtime says of an output: its type as ``"tensor(float)"``, its axes or None."""

    type: str
    shape: tuple[int | str | None, ...]


class OnnxRun:
    """``model`` on ONNX Runtime's CPU provider; nothing is read from disk.

    Args:
        model: with its weights inside.
        what: how error messages call it, e.g. the file's path.
        optimize: let ONNX Runtime rewrite the graph first.

    Raises:
        ModelError: ONNX Runtime refuses it, and why.
    """

    def __init__(self, model: onnx.ModelProto, what: str, *, optimize: bool = True) -> None:
        import onnxruntime

        level = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = (
            level.ORT_ENABLE_BASIC if optimize else level.ORT_DISABLE_ALL
        )
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._what = what
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"{what}: ONNX Runtime cannot run it: {_reason(error)}") from error

    def __call__(self, feeds: dict[str, npt.NDArray[Any]]) -> Arrays:
        """All outputs, in the graph's order.

        Raises:
            ModelError: it fails on these inputs, or gives something that is no tensor.
        """
        try:
            outputs = self._session.run(None, feeds)
        except Exception as error:
            raise ModelError(f"{self._what}: ONNX Runtime fails on it: {_reason(error)}") from error
        for value, output in zip(self._session.get_outputs(), outputs, strict=True):
            if not isinstance(output, np.ndarray):
                raise ModelError(
                    f"{self._what}: output '{value.name}' is {value.type}; tensors only."
                )
        return list(outputs)

    def outputs(self) -> dict[str, ValueFacts]:
        """Every output by name."""
        return {
            value.name: ValueFacts(value.type, tuple(value.shape))
            for value in self._session.get_outputs()
        }


def _reason(error: Exception) -> str:
    """On one line, without ``[ONNXRuntimeError] : 1 : FAIL :``."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text[:400]
