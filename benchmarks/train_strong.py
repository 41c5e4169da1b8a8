"""Train the strong 32x32 network on CIFAR-10 and write what it reached.

    python benchmarks/train_strong.py --out runs/fastnet

Accuracy is over all 10 000 test images, in FP32, without test-time augmentation, of the last
weights: the test images choose nothing. Interrupted, run it again: it carries on.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from edgevision.cli._progress import Phases
from edgevision.data import load_data
from edgevision.devices import this_machine
from edgevision.files import write_json
from edgevision.train import default_config
from edgevision.train.job import train
from edgevision.train.results import as_phase

RESULT = Path(__file__).parent / "results" / "train-strong-cifar10.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fastnet")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    config = default_config(arguments.model)
    data = load_data("cifar10")
    machine = this_machine()
    facts = {
        "claim": f"{arguments.model} on CIFAR-10, all 10 000 test images, no test-time "
        "augmentation, last weights",
        "command": f"python benchmarks/train_strong.py --model {arguments.model} --out OUT",
        "machine": {
            "name": machine.name,
            "architecture": machine.architecture,
            "cores": machine.cores,
            "memory_mb": machine.memory_mb,
            "cpu_features": list(machine.cpu_features),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "lightning", "numpy")},
        },
        "threads": torch.get_num_threads(),
        "config": json.loads(config.model_dump_json()),
    }
    with Phases(Console()) as progress:
        done = train(
            arguments.model,
            data,
            out=arguments.out,
            config=config,
            progress=as_phase(progress, "training"),
        )
    facts |= {
        "accuracy": done.result.metrics,
        "wall_seconds": round(done.result.seconds, 1),
        "precision": done.result.precision,
        "history": done.result.history,
        "parameters": sum(p.numel() for p in done.result.module.parameters()),
    }
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.result, facts)
    print(f"{done.result.metrics} in {done.result.seconds:.0f} s; written to {arguments.result}")


if __name__ == "__main__":
    main()
