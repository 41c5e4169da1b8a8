"""Compress a network on CIFAR-10 for this machine's CPU and write what was proven.

    python benchmarks/compress_cifar10.py cifar-resnet20 --name resnet20
    python benchmarks/compress_cifar10.py runs/fastnet --name fastnet

The first is `edgevision compress cifar-resnet20 --data cifar10 --target cpu
--max-accuracy-drop 0.5`, training included; the second takes the checkpoint of train_strong.py.
Accuracy is over all 10 000 test images through the runtime that ships, without test-time
augmentation; latency is interleaved with ONNX Runtime FP32 of the unpruned network, batch 1.
Interrupted, run it again: it carries on. `seconds` are those of the last run alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from edgevision.cli._progress import Phases
from edgevision.cli.compress import verdict_table
from edgevision.devices import environment
from edgevision.files import write_json
from edgevision.pipeline import compress

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--prune-macs", type=float)
    parser.add_argument("--fine-tune-epochs", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    prune: dict[str, Any] = {"macs": arguments.prune_macs}
    if arguments.fine_tune_epochs:
        prune["fine_tune"] = {"epochs": arguments.fine_tune_epochs}
    start = time.monotonic()
    with Phases(Console()) as progress:
        result = compress(
            arguments.model,
            data="cifar10",
            target="cpu",
            max_accuracy_drop=0.5,
            overrides={"prune": prune} if arguments.prune_macs else {},
            out=arguments.out or Path("runs") / f"compress-{arguments.name}",
            progress=progress,
        )
    figures = dict(result.figures)
    comparison = figures.pop("comparison")
    comparison.pop("samples_ms")
    for row in figures["rows"]:
        row.pop("per_class")
    write_json(
        RESULTS / f"compress-{arguments.name}-cifar10.json",
        {
            "command": f"python benchmarks/compress_cifar10.py MODEL --name {arguments.name}"
            + (f" --prune-macs {arguments.prune_macs}" if arguments.prune_macs else "")
            + (
                f" --fine-tune-epochs {arguments.fine_tune_epochs}"
                if arguments.fine_tune_epochs
                else ""
            ),
            "seconds": round(time.monotonic() - start, 1),
            "stages_reused": [n for n, stage in result.stages.items() if stage.reused],
            "figures": figures,
            "comparison": comparison,
            "environment": environment(),
        },
    )
    Console().print(verdict_table(result.figures))
    result.raise_for_verdict()


if __name__ == "__main__":
    main()
