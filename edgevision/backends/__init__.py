"""Backends, by name. A new one is its file and one line here."""

from __future__ import annotations

from edgevision.backends.base import Backend
from edgevision.registry import Registry

BACKENDS: Registry[type[Backend]] = Registry("backend")
BACKENDS.add("pytorch", "edgevision.backends.pytorch:PyTorchBackend")
BACKENDS.add("onnxruntime", "edgevision.backends.onnxruntime:OnnxRuntimeBackend")
BACKENDS.add("openvino", "edgevision.backends.openvino:OpenVINOBackend")
BACKENDS.add("tensorrt", "edgevision.backends.tensorrt:TensorRTBackend")
BACKENDS.add("tensorrt_rtx", "edgevision.backends.tensorrt_rtx:TensorRTRTXBackend")


def get_backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        UsageError: there is none of that name.
    """
    return BACKENDS.get(name)()
