"""How many architectures can be pruned by half and shipped: prune, run, export, INT8.

    python benchmarks/pruning_sweep.py [NAME ...] [--limit-s 1800] [--output FILE]

Names are timm's; without any, all of sweep.txt. Weights and images are those of coverage_sweep.py,
and like there each name runs in a process of its own and its result is stored at once: run the
same command again and it goes on where it was stopped.

Half of the channels of every group goes (`pruning_ratio=0.5`, widths stay multiples of 8), the
classifier's outputs stay. An architecture counts as pruned when its MACs went down, batches of 1
and 2 give outputs of the original's shape, it exports to ONNX with a dynamic batch that agrees
with torch to 60 dB, and the graphs emitted for `x86-vnni` and `tensorrt` pass the lint and run on
ONNX Runtime. The SQNR of these against the pruned float network is told without a floor: random
weights that lost half of their channels say little about accuracy. One that only comes back whole,
with its reasons, counts apart. `whole` tells of each group that stayed and why.

Beside it torch-pruning used plainly: `MagnitudePruner` with the same ratio and multiple; it counts
when it prunes, the forward pass gives the original's shape and the MACs went down.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from coverage_sweep import HERE, IMAGES, SCHEMES, network, run, smooth_images, sqnr
from sweeping import Steps, in_a_process

PROTOCOL = 1  # rows of another one are made anew
RATIO = 0.5
ROUND_TO = 8
AGREE_DB = 60.0  # torch and ONNX Runtime, both in float
PEER_S = 240  # torch-pruning alone gets this long: cascades keep it busy for more than 15 minutes


def sweep_one(name: str, folder: Path) -> dict[str, Any]:
    """Every step for one architecture; "failed" names those that did not work and why."""
    import torch

    from edgevision.export import export_onnx
    from edgevision.quantization import calibrate
    from edgevision.types import TensorSpec

    result: dict[str, Any] = {}
    step = Steps(result)

    module = step("create", lambda: network(name, statistics=False))
    if module is None:
        return result
    shape = module.default_cfg["input_size"]
    result["torch_pruning"] = plainly(network(name, statistics=False), shape)
    pruned = step("prune", lambda: pruned_by_half(module, shape, result))
    if pruned is None:
        return result
    source = folder / "pruned.onnx"
    spec = TensorSpec("image", ("batch", *shape))
    exported = step(
        "export", lambda: export_onnx(pruned, source, input_spec=spec, output_names=["logits"])
    )
    if exported is None:
        return result
    held_out = smooth_images(8, shape, 2)
    float_logits = run(source, held_out)
    with torch.no_grad():
        torch_logits = np.concatenate([pruned(torch.from_numpy(i[None])).numpy() for i in held_out])
    result["agreement_db"] = sqnr(torch_logits, float_logits)
    if result["agreement_db"] < AGREE_DB:
        told = f"{result['agreement_db']} dB between torch and ONNX Runtime"
        result.setdefault("failed", {})["agree"] = told
    table = step("calibrate", lambda: calibrate(source, [smooth_images(IMAGES, shape, 1)]))
    for scheme in SCHEMES if table is not None else ():
        path = folder / f"{scheme}.onnx"
        if step(f"emit {scheme}", lambda p=path, s=scheme: emitted(source, table, s, p)):
            result[scheme] = {
                "sqnr_db": step(
                    f"run {scheme}", lambda p=path: sqnr(float_logits, run(p, held_out))
                )
            }
    return result


def pruned_by_half(module: Any, shape: tuple[int, ...], result: dict[str, Any]) -> Any:
    """The narrowed module; what went and what stayed, and why, into ``result``."""
    import torch

    from edgevision.pruning import PruneConfig, count, prune
    from edgevision.tasks import get_task

    heads = get_task("classification").head_layers(module, module.num_classes)
    done = prune(
        module,
        example_shape=(1, *shape),
        config=PruneConfig(pruning_ratio=RATIO),
        ignored=heads,
        round_to=ROUND_TO,
    )
    rows = done.table.rows
    result |= {
        "macs_before": done.macs_before,
        "macs_after": done.macs_after,
        "params_before": done.params_before,
        "params_after": done.params_after,
        "layers": len(rows),
        "layers_narrowed": sum(row.channels_after != row.channels_before for row in rows),
        "whole": dict(done.table.whole),
    }
    for batch in (1, 2):
        image = torch.zeros(batch, *shape)
        with torch.no_grad():
            want, have = module(image).shape, done.module(image).shape
        if want != have:
            raise AssertionError(f"expected an output of shape {tuple(want)}, got {tuple(have)}")
    again = count(done.module, torch.zeros(1, *shape))
    if again.macs != done.macs_after:
        raise AssertionError(f"{done.macs_after} MACs were told, {again.macs} are counted")
    return done.module


def emitted(source: Path, table: Any, scheme: str, path: Path) -> bool:
    """Emit and lint."""
    from edgevision.quantization import emit, lint

    emit(source, table, scheme, path)
    errors = [str(finding) for finding in lint(path, scheme) if finding.severity == "error"]
    if errors:
        raise AssertionError(f"lint: {errors[:3]}")
    return True


def plainly(module: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """torch-pruning by itself, as its README has it, for at most ``PEER_S``."""
    import signal

    import torch
    import torch_pruning as tp

    from edgevision.pruning import count

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {PEER_S} s")

    image = torch.zeros(1, *shape)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PEER_S)
    try:
        before = count(module, image).macs
        with torch.no_grad():
            want = module(image).shape
        head = module.get_classifier()
        pruner = tp.pruner.MagnitudePruner(
            module,
            image,
            importance=tp.importance.MagnitudeImportance(p=2),
            global_pruning=False,
            pruning_ratio=RATIO,
            round_to=ROUND_TO,
            ignored_layers=list(head) if isinstance(head, (tuple, list)) else [head],
        )
        pruner.step()
        module.eval()
        with torch.no_grad():
            have = module(image).shape
        after = count(module, image).macs
        if have != want:
            raise RuntimeError(f"output of shape {tuple(have)}, expected {tuple(want)}")
        if after >= before:
            raise RuntimeError("no MACs less")
    except Exception as error:  # noqa: BLE001 - any failure is a result
        return {"works": False, "failed": " ".join(repr(error).split())[:300]}
    finally:
        signal.alarm(0)
    return {"works": True, "macs_before": before, "macs_after": after}


def outcome(row: dict[str, Any]) -> str:
    """ "pruned", "whole" or "failed"."""
    if "failed" in row:
        return "failed"
    return "pruned" if row["macs_after"] < row["macs_before"] else "whole"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit-s", type=float, default=1800, help="time for each architecture")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "pruning_sweep.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = sweep_one(arguments.one, arguments.folder)
        (arguments.folder / "result.json").write_text(json.dumps(found))
        return 0

    from edgevision.devices import environment
    from edgevision.files import write_json

    names = arguments.names or (HERE / "sweep.txt").read_text().split()
    results: dict[str, Any] = {}
    if arguments.output.exists():
        stored = json.loads(arguments.output.read_text())["architectures"]
        results = {name: row for name, row in stored.items() if row.get("protocol") == PROTOCOL}
    for name in names:
        if name not in results:
            row = in_a_process(__file__, name, arguments.limit_s)
            results[name] = {"protocol": PROTOCOL, "outcome": outcome(row), **row}
        row = results[name]
        told = "; ".join(f"{k}: {v}" for k, v in row.get("failed", {}).items())
        if "macs_after" in row:
            told = f"{row['macs_after'] / row['macs_before']:.0%} of the MACs left {told}"
        print(f"{name:34s} {row['outcome']:7s} {told}", flush=True)
        outcomes = [row["outcome"] for row in results.values()]
        write_json(
            arguments.output,
            {
                "claim": "at least 57 of 60 architectures are pruned, exported and in INT8, "
                "the others left whole with the reason; torch-pruning plainly: 39",
                "command": f"python benchmarks/pruning_sweep.py --limit-s {arguments.limit_s:g}",
                "environment": environment(),
                "architectures": results,
                "summary": {
                    "tried": len(results),
                    **{kind: outcomes.count(kind) for kind in ("pruned", "whole", "failed")},
                    "torch_pruning_plainly": sum(
                        bool(row.get("torch_pruning", {}).get("works")) for row in results.values()
                    ),
                },
            },
        )
    print(f"{outcomes.count('pruned')} of {len(results)} pruned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
