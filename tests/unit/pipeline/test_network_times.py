"""What a network's time is made of, where every width is another export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgevision.pipeline import network_times
from edgevision.pipeline.network_times import FLOAT, Network
from edgevision.pruning import PruneConfig
from edgevision.targets import load_target
from tests.unit.pruning.networks import Private, Transformer


def test_exports_for_the_groups_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "cache"))
    exports: list[Path] = []
    real = network_times.export_module

    def counting(module: torch.nn.Module, path: Path, **options: Any) -> None:
        exports.append(path)
        real(module, path, **options)

    monkeypatch.setattr(network_times, "export_module", counting)
    torch.manual_seed(0)
    module = Transformer(Private(32, 3)).eval()
    network = Network(
        module,
        (3, 16, 16),
        ("logits",),
        load_target("cpu"),
        None,
        PruneConfig(speedup=2.0),
        (module.head,),
        None,
    )
    network.export(tmp_path / FLOAT)
    first, allowed = network.shapes(tmp_path / FLOAT)
    assert len(allowed) >= 2
    assert len(exports) == 1 + len(allowed), "one for each group"
    again, _ = network.shapes(tmp_path / FLOAT)
    assert len(exports) == 1 + len(allowed)
    rows = np.array([[widths[0], widths[-1]] for widths in allowed.values()]).T
    assert (again.amounts(rows) == first.amounts(rows)).all()
    again.narrowed({})
    assert len(exports) == 1 + len(allowed), "the whole network is there already"
    again.narrowed({name: widths[-1] for name, widths in allowed.items()})
    assert len(exports) == 2 + len(allowed)
