"""``edgevision data calibration``: makes a manifest and checks one."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_manifest_is_made_checked_and_refused_when_it_is_of_other_images(
    cli, image_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "set.json"
    made = cli("data", "calibration", image_folder, "--count", 9, "--out", path)
    assert made.returncode == 0, made.stderr
    assert len(json.loads(path.read_text())["images"]) == 9
    checked = cli("data", "calibration", image_folder, "--check", path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.strip() == made.stdout.strip()
    refused = cli("data", "calibration", "fashion-mnist-mini", "--check", path)
    assert refused.returncode == 3
    assert "is another one" in refused.stderr
