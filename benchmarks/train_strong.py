"""Train the strong 32x32 network on CIFAR-10 and write what it reached.

    python benchmarks/train_strong.py --out runs/fastnet

Two learning-rate cycles, the family's own recipe and a shorter one from there with stronger
augmentation, and the mean of the two networks' weights (stochastic weight averaging).
Accuracy is over all 10 000 test images, in FP32, without test-time augmentation. No run chooses
anything by them, but the recipe was found while looking at such figures: there is no third split.
Interrupted, run it again: it carries on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from edgevision.cli._progress import Phases
from edgevision.data import load_data
from edgevision.devices import environment
from edgevision.files import write_json
from edgevision.train import default_config, override
from edgevision.train.average import average_checkpoints
from edgevision.train.job import train
from edgevision.train.results import as_phase

SECOND_CYCLE = {
    "epochs": 7,
    "muon_learning_rate": 0.012,
    "learning_rate": 0.12,
    "augment": {
        "flip": "alternating",
        "crop_padding": 4,
        "erasing": 0.7,
        "erasing_area": (0.05, 0.2),
    },
}
RESULT = Path(__file__).parent / "results" / "train-strong-cifar10.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fastnet")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    configs = [default_config(arguments.model)]
    configs.append(override(configs[0], **SECOND_CYCLE))
    data = load_data("cifar10")
    facts = {
        "claim": f"{arguments.model} on CIFAR-10, all 10 000 test images, no test-time "
        "augmentation, mean of the weights of two cycles",
        "command": f"python benchmarks/train_strong.py --model {arguments.model} --out OUT",
        "environment": environment(),
        "threads": torch.get_num_threads(),
    }
    cycles: list[dict[str, Any]] = []
    model, folders = arguments.model, []
    with Phases(Console()) as progress:
        for number, config in enumerate(configs, 1):
            out = arguments.out / f"cycle{number}"
            done = train(
                model,
                data,
                out=out,
                config=config,
                progress=as_phase(progress, f"training, cycle {number}"),
            )
            model = str(out)
            folders.append(out)
            cycles.append(
                {
                    "accuracy": done.result.metrics,
                    "wall_seconds": round(done.result.seconds, 1),
                    "config": json.loads(config.model_dump_json()),
                    "history": done.result.history,
                }
            )
        progress("averaging", 0, 1, "")
        accuracy = average_checkpoints(folders, data, arguments.out)
        progress("averaging", 1, 1, "")
    facts |= {
        "accuracy": accuracy,
        "wall_seconds": round(sum(cycle["wall_seconds"] for cycle in cycles), 1),
        "precision": done.result.precision,
        "parameters": sum(p.numel() for p in done.result.module.parameters()),
        "cycles": cycles,
    }
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.result, facts)
    print(f"{facts['accuracy']} in {facts['wall_seconds']:.0f} s; written to {arguments.result}")


if __name__ == "__main__":
    main()
