"""Accuracy of INT8 on CIFAR-10, all 10 000 test images: ours and the peers' of the same networks.

    python benchmarks/int8_accuracy.py --out runs/int8 --nncf-python nncf-env/bin/python
        [--modelopt-python …] [--embedl-python …]

Each network is trained first, unless OUT/NAME holds its checkpoint already (put a longer trained
one there, or name it with --checkpoint NAME=FOLDER). All tools see the same 512 training images.
Ours is what `compress` does by default, and with the other calibrators, biases corrected, and
rounding learned; where the best of them misses the limit, quantization-aware training follows as it
would there. Where a peer is ahead by more than 0.05, `ahead` counts the images that only one of the
two graphs names rightly, with the probability of counts so uneven among equals (McNemar's exact
test). ONNX Runtime's tool is tried with each of its calibrators, in its default form and in
the one that TensorRT takes; the peers with environments of their own (see peers/) with their
defaults. Everything runs on ONNX Runtime. Networks done are kept in the result, so an interrupted
run carries on. EfficientNet-Lite0 wants two packages more (see networks.py). Writes
results/int8_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from peers.static import (
    STATIC_FORMS,
    add_peer_arguments,
    outside_graph,
    peer_pythons,
    save_program,
    static_graph,
)
from recovery import accuracy_of, learn, right_of
from rich.console import Console

from edgevision.cli._progress import Phases
from edgevision.data import DataSplits, load_data
from edgevision.data.calibration import sample_calibration
from edgevision.devices import environment
from edgevision.export import export_onnx, load_onnx, save_onnx
from edgevision.files import write_json
from edgevision.models import trust_factory
from edgevision.models.checkpoint import load_checkpoint
from edgevision.preprocessing import Preprocessing
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.adaround import adaround
from edgevision.quantization.bias_correction import correct_biases
from edgevision.tasks import get_task
from edgevision.train import default_config, override
from edgevision.train.job import train
from edgevision.train.results import as_phase
from edgevision.types import TensorSpec

RESULT = Path(__file__).parent / "results" / "int8_accuracy.json"
SCHEMES = ("x86-vnni", "tensorrt")
IMAGES = 512
BATCH = 64


# The first is the default; "CALIBRATOR, analytic" corrects biases as well, as NNCF does by default,
# "CALIBRATOR, adaround" learns the rounding of the weights.
METHODS = (
    *("percentile", "mse", "entropy", "minmax"),
    *("percentile, analytic", "mse, analytic", "percentile, adaround"),
)


class Network(NamedTuple):
    """What is trained: for about a quarter of an hour on two cores."""

    model: str
    size: int  # of the input, pixels
    limit: float  # points that INT8 may lose
    training: dict[str, Any]  # what differs from the model's own recipe


_FACTORIES = Path(__file__).resolve().parent / "networks.py"
NETWORKS = {
    "resnet20": Network("cifar-resnet20", 32, 0.2, {}),
    "fastnet": Network("fastnet", 32, 0.2, {}),
    "vgg11_bn": Network(
        f"{_FACTORIES}:vgg11_bn",
        32,
        0.2,
        {**default_config("fastnet").model_dump(), "epochs": 6, "evaluate_every": 1},
    ),
    "mobilenetv2": Network("timm:mobilenetv2_100", 64, 0.5, {"epochs": 4}),
    "mobilenetv3_small": Network("timm:mobilenetv3_small_100", 64, 0.5, {"epochs": 10}),
    "efficientnet_lite0": Network(f"{_FACTORIES}:efficientnet_lite0", 96, 0.5, {"epochs": 2}),
    "vit_small": Network(f"{_FACTORIES}:vit_small", 32, 0.5, {"epochs": 5}),
}


def checkpoint_of(name: str, network: Network, folder: Path, data: DataSplits) -> Path:
    """The folder of the trained network."""
    if (folder / "model.json").is_file():
        return folder
    config = override(default_config(network.model), **network.training)
    with Phases(Console()) as progress:
        told = as_phase(progress, f"training {name}")
        train(network.model, data, out=folder, config=config, progress=told)
    return folder


class Prepared(NamedTuple):
    """A trained network as all tools get it."""

    data: DataSplits
    preprocessing: Preprocessing
    fp32: Path
    images: npt.NDArray[np.float32]
    accuracy: Callable[[Path], float]


def prepare(
    name: str, network: Network, checkpoint: Path, folder: Path, *, program: bool = False
) -> Prepared:
    """Train it if need be, export it (with ``program`` for embedl, too), read the images."""
    data = load_data("cifar10", image_size=(network.size, network.size))
    trust_factory(network.model)
    module, card = load_checkpoint(checkpoint_of(name, network, checkpoint, data))
    preprocessing = card.as_preprocessing()
    folder.mkdir(parents=True, exist_ok=True)
    fp32 = folder / "float.onnx"
    spec = TensorSpec("image", ("batch", *preprocessing.input_shape))
    export_onnx(module, fp32, input_spec=spec, output_names=["logits"])
    if program:
        save_program(module, preprocessing.input_shape, fp32.with_suffix(".pt2"))
    task = get_task("classification")
    chosen = sample_calibration(data.train, task, IMAGES, 0, validation=data.validation)
    images = np.concatenate(list(chosen.batches(preprocessing, BATCH)))
    accuracy = accuracy_of(data.validation, preprocessing)
    return Prepared(data, preprocessing, fp32, images, accuracy)


def after_training(network: Network, prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Accuracy of our post-training quantization and of ONNX Runtime's."""
    _, _, fp32, images, accuracy = prepared
    row: dict[str, Any] = {
        "model": Path(network.model).name,
        "size": network.size,
        "limit": network.limit,
        "epochs": override(default_config(network.model), **network.training).epochs,
        "fp32": accuracy(fp32),
        "ours": ours(prepared, folder, METHODS),
        "peers": {},
    }
    for form in STATIC_FORMS:
        for method in ("MinMax", "Percentile", "Entropy"):
            path = folder / f"static-{form}-{method}.onnx"
            error = static_graph(fp32, images, path, form=form, method=method)
            key = f"quantize_static {method}, {form} form"
            row["peers"][key] = error or measured(prepared, path)
    row["environment"] = environment()
    return row


def ours(prepared: Prepared, folder: Path, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scheme → calibrator → accuracy."""
    found: dict[str, dict[str, Any]] = {scheme: {} for scheme in SCHEMES}
    for method in methods:
        calibrator, _, correction = method.partition(", ")
        table = calibrate(prepared.fp32, [prepared.images], method=calibrator)
        for scheme in SCHEMES:
            source, used = prepared.fp32, table
            path = own_graph(folder, scheme, method)
            if correction == "adaround":
                images = np.array_split(prepared.images, IMAGES // BATCH)
                model, used = adaround(load_onnx(source), table, get_scheme(scheme), images)
                source = path.with_suffix(".float.onnx")
                save_onnx(model, source)
            elif correction:
                used = correct_biases(source, table, scheme, prepared.images, method=correction)
            emit(source, used, scheme, path)
            found[scheme][method] = prepared.accuracy(path)
    return found


def own_graph(folder: Path, scheme: str, method: str) -> Path:
    return folder / f"ours-{scheme}-{method.replace(', ', '-')}.onnx"


def ahead(row: dict[str, Any], scheme: str, ready: Prepared, folder: Path) -> dict[str, Any] | None:
    """The best peer against our best, image by image; None where it is not ahead by 0.05."""
    tried = {method: row["ours"][scheme].get(method, 0.0) for method in METHODS}
    peers = {peer: value for peer, value in row["peers"].items() if isinstance(value, float)}
    method, peer = max(tried, key=tried.__getitem__), max(peers, key=peers.__getitem__)
    if peers[peer] - tried[method] <= 0.05 + 1e-9:
        return None
    tool, _, rest = peer.partition(" ")
    kind, _, form = rest.removesuffix(" form").partition(", ")
    static = tool == "quantize_static"
    graphs = (
        own_graph(folder, scheme, method),
        folder / (f"static-{form}-{kind}.onnx" if static else f"{tool}.onnx"),
    )
    if not graphs[0].exists():
        ours(ready, folder, [method])
    mine, theirs = (right_of(ready.data.validation, ready.preprocessing)(p) for p in graphs)
    only = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    tail = sum(comb(sum(only), k) for k in range(min(only) + 1)) / 2 ** sum(only)
    found = {"peer": peer, "ours": method, "only_ours_right": only[0], "only_peer_right": only[1]}
    return {**found, "probability": round(min(1.0, 2 * tail), 3)}


def outside(peer: str, python: str, prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Name and version of a peer in its own environment → accuracy, or why it failed."""
    path = folder / f"{peer}.onnx"
    source = prepared.fp32.with_suffix(".pt2") if peer == "embedl" else prepared.fp32
    version, error = outside_graph(peer, source, prepared.images, path, python)
    return {f"{peer} {version}".strip(): error or measured(prepared, path)}


def measured(prepared: Prepared, path: Path) -> float | str:
    """Accuracy of a peer's graph, or why ONNX Runtime cannot run it."""
    try:
        return prepared.accuracy(path)
    except Exception as error:  # noqa: BLE001 - any failure is a result
        return f"cannot run: {error}"[:300]


def missed(row: dict[str, Any]) -> list[str]:
    """Schemes whose best post-training accuracy loses too much, not yet trained for."""
    return [
        scheme
        for scheme, found in row["ours"].items()
        if "qat" not in found and row["fp32"] - max(found.values()) > row["limit"]
    ]


def network_parser(
    description: str | None, networks: list[str], result: Path
) -> argparse.ArgumentParser:
    """Arguments of a benchmark over trained networks, those of ``networks`` unless told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and graphs")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=networks)
    parser.add_argument("--checkpoint", nargs="*", default=(), metavar="NAME=FOLDER")
    parser.add_argument("--again", action="store_true", help="measure every network anew")
    parser.add_argument("--result", type=Path, default=result)
    return parser


def main() -> None:
    parser = network_parser(__doc__, list(NETWORKS), RESULT)
    add_peer_arguments(parser)
    arguments = parser.parse_args()
    pythons = peer_pythons(arguments)
    given = dict(entry.split("=", 1) for entry in arguments.checkpoint)
    result: dict[str, Any] = {"networks": {}}
    if arguments.result.exists() and not arguments.again:
        result = json.loads(arguments.result.read_text())
    result |= {
        "claim": "INT8 loses at most 0.2 points on plain convolutional networks, 0.5 on depthwise "
        "and attention networks, and no more than the best peer plus 0.05",
        "command": "python benchmarks/int8_accuracy.py --out OUT --nncf-python PYTHON "
        "--modelopt-python PYTHON --embedl-python PYTHON",
        "calibration_images": IMAGES,
    }

    def prepared(name: str) -> tuple[Network, Prepared, Path]:
        folder = arguments.out / name
        checkpoint = Path(given.get(name, folder / "checkpoint"))
        network = NETWORKS[name]
        ready = prepare(name, network, checkpoint, folder / "graphs", program="embedl" in pythons)
        return network, ready, folder / "graphs"

    rows = result["networks"]
    for name in arguments.networks:
        if name not in rows:
            network, ready, folder = prepared(name)
            rows[name] = after_training(network, ready, folder)
            write_json(arguments.result, result)
            print(name, json.dumps({key: rows[name][key] for key in ("fp32", "ours", "peers")}))
        if more := [m for m in METHODS if m not in rows[name]["ours"][SCHEMES[0]]]:
            _, ready, folder = prepared(name)
            for scheme, found in ours(ready, folder, more).items():
                rows[name]["ours"][scheme] |= found
            write_json(arguments.result, result)
        for peer, python in pythons.items():  # of those that were not at hand before
            if not any(told.startswith(peer) for told in rows[name]["peers"]):
                _, ready, folder = prepared(name)
                rows[name]["peers"] |= outside(peer, python, ready, folder)
                write_json(arguments.result, result)
    for name in arguments.networks:
        for scheme in missed(rows[name]):
            network, ready, folder = prepared(name)
            table = calibrate(ready.fp32, [ready.images], method=METHODS[0])
            path, agreement = learn(
                name,
                ready.fp32,
                table,
                scheme,
                ready.data,
                ready.preprocessing,
                network.model,
                folder / f"qat-{scheme}",
            )
            found = rows[name]["ours"][scheme]
            found |= {"qat": ready.accuracy(path), "qat_agreement": agreement}
            write_json(arguments.result, result)
            print(name, scheme, json.dumps(found))
    for name in arguments.networks:
        _, ready, folder = prepared(name)
        told = {scheme: ahead(rows[name], scheme, ready, folder) for scheme in SCHEMES}
        rows[name]["ahead"] = {scheme: found for scheme, found in told.items() if found}
        write_json(arguments.result, result)


if __name__ == "__main__":
    main()
