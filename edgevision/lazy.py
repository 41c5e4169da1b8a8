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
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "cuda": "tensorrt",
    "openvino": "openvino",
    "plotly": "report",
}


def require(module: str) -> Any:
    """Import ``module`` (dotted name) now and return it.

    Raises:
        MissingExtraError: the package is not installed; the hint names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        missing = (error.name or package).partition(".")[0]
        if missing != package:
            raise
        extra = _EXTRA_OF.get(package)
        hint = f"Install it with: pip install 'edgevision[{extra}]'" if extra else None
        raise MissingExtraError(f"'{package}' is not installed.", hint=hint) from error
