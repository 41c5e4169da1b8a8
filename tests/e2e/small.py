"""A compression that touches every stage and takes about half a minute on two cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

RECIPE: dict[str, Any] = {
    "model": "cifar-resnet8",
    "target": "cpu",
    "input": {"size": 28},
    "train": {"epochs": 3, "batch_size": 32},
    "prune": {"macs": 0.3, "fine_tune": {"epochs": 1}},
    "quantize": {"images": 32},
    "verify": {"max_accuracy_drop": 60, "seconds": 2, "threads": 1, "speedup": 0.01},
}


def write_recipe(folder: Path, data: Path, **changes: Any) -> Path:
    """The recipe as a YAML file in ``folder``, for the images in ``data``."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": str(data), **changes}))
    return path


def without_times(bundle: Path) -> dict[str, Any]:
    """Every file of a bundle by name, less what was timed: the two reports and the latencies."""
    files: dict[str, Any] = {}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if not path.is_file() or name in ("report.json", "report.html"):
            continue
        files[name] = path.read_bytes()
    manifest = json.loads(files["manifest.json"])
    manifest["verdict"]["latency"] = None
    manifest["verdict"]["reasons"] = None
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["kind"] != "report"]
    files["manifest.json"] = manifest
    return files
