from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from exported_network import Exported

# Shared by these tests, and the networks that pruning is tested on.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "pruning")]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Residual, depthwise, squeeze and excite, and a concatenation, one behind the other."""
    from exported_network import Exported
    from networks import Net, lively

    torch.manual_seed(0)
    module = Net(3, (("residual", 8), ("depthwise", 12), ("excite", 16), ("concat", 12)))
    lively(module)
    return Exported(tmp_path, module)
