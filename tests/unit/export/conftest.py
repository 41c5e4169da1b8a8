from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Save = Callable[..., Path]
W = (6, 3, 3, 3)


@pytest.fixture
def save(make_model: Any, tmp_path: Path) -> Save:
    """Write a model of ONNX text to a file: ``(text, opset, **initializers)``."""

    def write(text: str, opset: int = 18, **arrays: np.ndarray) -> Path:
        path = tmp_path / "foreign.onnx"
        onnx.save(make_model(text, opset, **arrays), path)
        return path

    return write


@pytest.fixture
def weight(random: np.random.Generator) -> np.ndarray:
    return (random.normal(size=W) / 4).astype(np.float32)
