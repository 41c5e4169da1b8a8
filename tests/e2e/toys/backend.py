from __future__ import annotations

from edgevision.backends.onnxruntime import OnnxRuntimeBackend


class ToyBackend(OnnxRuntimeBackend):
    """A vendor with a file format of its own, borrowed from ONNX Runtime."""

    name = "toy"
    artifact_suffix = ".toy"
