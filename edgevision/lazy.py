"""Lazy import of heavy or optional packages; the error names the extra to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edgevision.errors import MissingExtraError

_EXTRA_OF = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "torch_pruning": "train",
    "lightning": "train",
    "datasets": "train",
    "huggingface_hub": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "scipy": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "cuda": "tensorrt",
    "openvino": "openvino",
    "plotly": "report",
    "asyncssh": "remote",
    "model_signing": "sign",
}


def require(module: str) -> Any:
    """Import ``module`` (dotted name) now and return it.

    Raises:
        MissingExtraError: the package is not installed; the hint names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        known = missing_extra(error)
        if known is None:
            raise
        raise known from error


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The failed import as our own error, None where no extra of ours holds the package."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(package)
    if extra is None:
        return None
    return MissingExtraError(
        f"'{package}' is not installed.",
        hint=f"Install it with: pip install 'edgevision[{extra}]'",
    )
