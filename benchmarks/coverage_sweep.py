"""How many architectures go all the way: export, calibrate, emit, lint, build, run.

    python benchmarks/coverage_sweep.py [NAME ...] [--limit-s 900] [--output FILE]

Names are timm's; without any, all of sweep.txt. Each runs in a process of its own under a time
limit, and its result is stored at once: run the same command again and it goes on where it was
stopped. Weights are random as timm draws them; scales that start as zero or nearly so (layer
scales, last BatchNorm of a block) are drawn from 0.1 to 0.3, and heads of zeros like other layers,
so that every layer counts in the output. With --statistics BatchNorm's are taken from the images as
well: in networks of random weights that carries every small difference on to the logits, which is
harder than what training leaves. Images are smooth noise, others for the SQNR than for the
calibration; `images_apart_db` says how much the float logits depend on the image at all.

An architecture works when every step passes: export to ONNX with a dynamic batch; calibration on
32 images; `tensorrt` and `x86-vnni` emitted and linted without an error; TensorRT-RTX builds the
`tensorrt` graph for SM86; both graphs run on ONNX Runtime with an SQNR above 15 dB. Where INT8
throughout gives less on the calibration images, what `compress` does without training follows, as
far as needed: the other calibrators, then layers back to float, the most costly first, as few as
are enough. `calibrator`, `kept_in_float` and `sqnr_db_throughout` tell of it, `asked_share` of the
MACs asked for in INT8: half of them is the least that counts as working. Beside it
`quantize_static` in the form that TensorRT takes, built the same way. Neither counts as INT8 when
no matrix layer of the engine is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sweeping import Steps, in_a_process, reason_of

HERE = Path(__file__).resolve().parent
PROTOCOL = 2  # rows of another one are made anew
FLOOR_DB = 15.0
LEAST_SHARE = 0.5  # of the MACs, asked for in INT8
ENOUGH_DB = 16.0  # on the calibration images: others may be a little worse off
SCHEMES = ("tensorrt", "x86-vnni")
IMAGES = 32
Float32 = npt.NDArray[np.float32]


def smooth_images(count: int, shape: tuple[int, ...], seed: int) -> Float32:
    """(N, C, H, W): coarse noise enlarged plus fine noise, about as uneven as photographs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bicubic")
    images += 0.2 * torch.randn(images.shape, generator=generator)
    array: Float32 = images.numpy().astype(np.float32)
    return array


def network(name: str, statistics: bool) -> Any:
    """A timm model with random weights under which every layer counts, in evaluation mode."""
    import timm
    import torch

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False)
    shape = module.default_cfg["input_size"]
    with torch.no_grad():
        for parameter in module.parameters():
            constant = parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())
            value = float(parameter.flatten()[0])
            if constant and 0 < abs(value) < 0.1:  # a damped scale
                parameter.uniform_(0.1, 0.3)
        for block in module.modules():
            norm = isinstance(block, torch.nn.modules.batchnorm._BatchNorm)
            if norm and block.weight is not None and not bool(block.weight.any()):
                block.weight.uniform_(0.1, 0.3)
            if isinstance(block, torch.nn.Linear | torch.nn.Conv2d) and not bool(
                block.weight.any()
            ):
                torch.nn.init.trunc_normal_(block.weight, std=0.02)  # a head that starts at zero
            if norm:
                block.momentum = None  # the mean over all batches
        module.train(statistics)
        for seed in range(2 if statistics else 0):
            module(torch.from_numpy(smooth_images(4, shape, 100 + seed)))
    return module.eval()


def sweep_one(name: str, folder: Path, statistics: bool) -> dict[str, Any]:
    """Every step for one architecture; "failed" names the first that did not work and why."""
    from peers.static import static_graph

    from edgevision.export import export_onnx
    from edgevision.quantization import calibrate
    from edgevision.types import TensorSpec

    result: dict[str, Any] = {}
    step = Steps(result)
    source = folder / "fp32.onnx"

    module = step("create", lambda: network(name, statistics))
    if module is None:
        return result
    shape = module.default_cfg["input_size"]
    spec = TensorSpec("image", ("batch", *shape))
    images = smooth_images(IMAGES, shape, 1)
    held_out = smooth_images(8, shape, 2)
    exported = step(
        "export", lambda: export_onnx(module, source, input_spec=spec, output_names=["logits"])
    )
    if exported is None:
        return result
    want = run(source, held_out)
    result["images_apart_db"] = sqnr(want[:4], want[4:])
    table = step("calibrate", lambda: calibrate(source, [images]))
    if table is not None:
        for scheme in SCHEMES:
            quantized = folder / f"{scheme}.onnx"
            found = step(
                f"emit {scheme}", lambda q=quantized, s=scheme: emitted(source, table, s, q, images)
            )
            if found is None:
                continue
            result[scheme] = found
            result[scheme]["sqnr_db"] = step(
                f"run {scheme}", lambda q=quantized: sqnr(want, run(q, held_out))
            )
            if (result[scheme]["sqnr_db"] or 0) <= FLOOR_DB:
                text = f"SQNR {result[scheme]['sqnr_db']} dB, wanted above {FLOOR_DB}"
                result.setdefault("failed", {}).setdefault(f"run {scheme}", text)
            if scheme == "tensorrt":
                result["tensorrt_rtx"] = step("build", lambda q=quantized: built(q))
    result["works"] = "failed" not in result
    peer: dict[str, Any] = {}
    try:
        path = folder / "quantize_static.onnx"
        error = static_graph(source, images, path, form="tensorrt")
        if error is not None:
            raise RuntimeError(error)
        peer = {"tensorrt_rtx": built(path), "works": True}
        peer["sqnr_db"] = sqnr(want, run(path, held_out))
    except Exception as error:  # noqa: BLE001 - any failure is a result
        peer |= {"failed": reason_of(error), "works": False}
    result["quantize_static"] = peer
    return result


def emitted(source: Path, table: Any, scheme: str, path: Path, images: Float32) -> dict[str, Any]:
    """Emit and lint; what stays in float, and why."""
    import onnx
    from int8_share import work_of

    from edgevision.export import load_onnx
    from edgevision.pipeline.stages.recover import fewest
    from edgevision.quantization import emit, lint
    from edgevision.quantization.calibrate import recalibrations
    from edgevision.quantization.output_noise import most_costly_first
    from edgevision.quantization.simulation import network_sqnr

    model = load_onnx(source)

    def quality(ranges: Any, kept: dict[str, str]) -> float:
        emit(source, ranges, scheme, path, keep_float=kept)
        return network_sqnr(model, load_onnx(path), images)

    found: dict[str, Any] = {"sqnr_db_throughout": round(quality(table, {}), 2)}
    best, kept = found["sqnr_db_throughout"], {}
    if best <= ENOUGH_DB:
        for other in recalibrations(table, model):
            value = quality(other, {})
            if value > best:
                best, table = value, other
            if best > ENOUGH_DB:
                break
    if best <= ENOUGH_DB:
        order = most_costly_first(source, table, scheme, images)
        count = fewest(len(order) - 1, lambda n: quality(table, dict(order[:n])) > ENOUGH_DB)
        kept = dict(order[: count or 0])
    report = emit(source, table, scheme, path, keep_float=kept)
    errors = [str(finding) for finding in lint(path, scheme) if finding.severity == "error"]
    if errors:
        raise AssertionError(f"lint: {errors[:3]}")
    work = work_of(onnx.load(path)).values()
    share = sum(item.macs for item in work if item.asked) / sum(item.macs for item in work)
    if share < LEAST_SHARE:
        raise AssertionError(f"only {share:.0%} of the MACs are asked for in INT8")
    left = Counter((n.operator, n.reason) for n in report.nodes if n.asked == "float")
    return found | {
        "calibrator": table.method,
        "kept_in_float": kept,
        "asked_share": round(share, 4),
        "asked": report.counts(),
        "left_in_float": [f"{n} {op}: {why}" for (op, why), n in left.most_common()],
        "warnings": len(report.findings),
    }


def built(path: Path) -> dict[str, Any]:
    """TensorRT-RTX's own report on ``path``.

    Raises:
        AssertionError: no matrix layer is in INT8.
    """
    from int8_share import int8_share

    share = int8_share(path, "86")
    if not share["int8_share"]:
        raise AssertionError("the engine has no INT8 layer")
    return share


def run(path: Path, images: Float32) -> Float32:
    """ONNX Runtime's output, images one at a time."""
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    with get_backend("onnxruntime").open(Artifact("onnxruntime", path)) as runner:
        outputs = [runner.infer({"image": image[None]})["logits"] for image in images]
    return np.concatenate(outputs)


def sqnr(want: Float32, have: Float32) -> float:
    """Signal to quantization noise in dB."""
    if not (np.isfinite(want).all() and want.any()):
        raise AssertionError("the float model's output is zero or not finite")
    noise = float(((want - have).astype(np.float64) ** 2).sum())
    signal = float((want.astype(np.float64) ** 2).sum())
    return round(10 * float(np.log10(signal / max(noise, 1e-30))), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit-s", type=float, default=900, help="time for each architecture")
    parser.add_argument("--output", type=Path, help="the result, one file for each kind of weights")
    parser.add_argument("--statistics", action="store_true", help="BatchNorm's from the images")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        result = {
            "works": False,
            **sweep_one(arguments.one, arguments.folder, arguments.statistics),
        }
        (arguments.folder / "result.json").write_text(json.dumps(result))
        return 0

    from edgevision.devices import environment
    from edgevision.files import write_json

    command = f"python benchmarks/coverage_sweep.py --limit-s {arguments.limit_s:g}"
    command += " --statistics" if arguments.statistics else ""
    kind = "_statistics" if arguments.statistics else ""
    output = arguments.output or HERE / "results" / f"coverage_sweep{kind}.json"
    names = arguments.names or (HERE / "sweep.txt").read_text().split()
    results: dict[str, Any] = {}
    if output.exists():
        stored = json.loads(output.read_text())["architectures"]
        results = {name: row for name, row in stored.items() if row.get("protocol") == PROTOCOL}
    for name in names:
        if name not in results:
            flags = ["--statistics"] if arguments.statistics else []
            found = in_a_process(__file__, name, arguments.limit_s, *flags)
            row = {"works": False, **found}
            results[name] = {"protocol": PROTOCOL, **row}
        found = results[name]
        told = (
            "works"
            if found["works"]
            else "; ".join(f"{k}: {v}" for k, v in found["failed"].items())
        )
        print(f"{name:34s} {told}", flush=True)
        peers = [row.get("quantize_static", {}) for row in results.values()]
        good = [row for row in results.values() if row["works"]]
        write_json(
            output,
            {
                "claim": "at least 58 of 60 architectures go all the way; quantize_static: 43",
                "command": command,
                "environment": environment(),
                "batch_norm_statistics": "of images" if arguments.statistics else "as created",
                "architectures": results,
                "summary": {
                    "tried": len(results),
                    "work": len(good),
                    "work_without_layers_kept_in_float": sum(
                        not any(row[scheme]["kept_in_float"] for scheme in SCHEMES) for row in good
                    ),
                    "quantize_static_builds_in_int8": sum(bool(p.get("works")) for p in peers),
                    "quantize_static_builds_and_sqnr": sum(
                        bool(p.get("works")) and p["sqnr_db"] > FLOOR_DB for p in peers
                    ),
                },
            },
        )
    print(f"{sum(bool(r['works']) for r in results.values())} of {len(results)} work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
