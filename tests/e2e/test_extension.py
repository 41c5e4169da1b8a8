from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgevision.backends import BACKENDS
from edgevision.pipeline import compress
from edgevision.quantization.calibrators import CALIBRATORS
from edgevision.runtime import load
from edgevision.tasks import TASKS
from tests.e2e.small import RECIPE
from tests.e2e.toys.task import Opinion

TOYS = Path(__file__).parent / "toys"


def test_imports_go_one_way() -> None:
    """The contracts in ``pyproject.toml``, as ``make test`` checks them too."""
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(tool), "--no-logo"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_toy_of_each_kind_is_one_file_and_one_line(tmp_path: Path, image_folder: Path) -> None:
    """Backend, calibrator, task and target go through the main job and the runtime."""
    BACKENDS.add("toy", "tests.e2e.toys.backend:ToyBackend")
    CALIBRATORS.add("half", "tests.e2e.toys.calibrator:HalfRange")
    TASKS.add("toy", "tests.e2e.toys.task:ToyTask")
    try:
        result = compress(
            RECIPE["model"],
            data=str(image_folder),
            target=str(TOYS / "target.yaml"),
            overrides={
                **RECIPE,
                "task": "toy",
                "train": {"epochs": 1, "batch_size": 32},
                "quantize": {"images": 8, "method": "half"},
                "prune": None,
                "verify": {"max_accuracy_drop": 100, "seconds": 1, "speedup": 0.01},
            },
            out=tmp_path,
        )
        result.raise_for_verdict()
        assert result.figures["metric"] == "hits"
        with load(result.bundle) as model:
            assert model.choice.backend == "toy"
            assert model.choice.path.endswith(".toy")
            seen = model(sorted(image_folder.rglob("*.png"))[0])
        assert isinstance(seen, Opinion)
        assert seen.words.startswith("it might be ")
    finally:
        BACKENDS.remove("toy")
        CALIBRATORS.remove("half")
        TASKS.remove("toy")
