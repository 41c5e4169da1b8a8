"""Claim: ``model.infer`` costs less than 5 % or 50 µs over a bare ``InferenceSession.run``.

Both run the same tensor on two sessions with equal options, interleaved in random order. The
network is a real convolution net, so that 5 % has a meaning; a second one is nearly free, so that
the microseconds show.

    python benchmarks/runtime_overhead.py [--seconds 20] [--bundle BUNDLE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.benchmark import BenchConfig, compare
from edgevision.bundle import BundleWriter, Lineage
from edgevision.preprocessing import Preprocessing
from edgevision.runtime import load

RESULT = Path(__file__).parent / "results" / "runtime_overhead.json"
THREADS = 1


def write_network(path: Path, *, width: int, layers: int, size: int) -> None:
    """A plain convolution net with random weights: ``layers`` of ``width`` channels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "input", 3
    for layer in range(layers):
        shape = (width, channels, 3, 3)
        values = generator.standard_normal(shape, np.float32) / np.sqrt(9 * channels)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last, channels = f"r{layer}", width
    head = generator.standard_normal((width, 10), np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def write_bundle(folder: Path, *, width: int, layers: int, size: int) -> Path:
    """A bundle around ``write_network``."""
    network = folder / "net.onnx"
    write_network(network, width=width, layers=layers, size=size)
    backend = get_backend("onnxruntime")
    with backend.open(Artifact("onnxruntime", network)) as runner:
        inputs, outputs = runner.input_specs, runner.output_specs
    with BundleWriter(
        folder / "bundle",
        task="classification",
        labels=[str(i) for i in range(10)],
        target="cpu",
        inputs=inputs,
        outputs=outputs,
        preprocessing=Preprocessing(size, size),
    ) as writer:
        writer.add_file(network, "model.fp32.onnx", kind="onnx", role="baseline", precision="fp32")
        writer.finish(lineage=Lineage(model=f"plain {layers}x{width} at {size}"))
    return folder / "bundle"


def measure(bundle: Path, seconds: float) -> dict[str, object]:
    """Interleaved latency of the bare session and of the runtime on the same tensor."""
    import onnxruntime

    with load(bundle, threads=THREADS) as model:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(model.bundle.path(model.choice.path)), options, providers=["CPUExecutionProvider"]
        )
        spec = model.runner.input_specs[0]
        shape = [n if isinstance(n, int) else 1 for n in spec.shape]
        tensor = np.random.default_rng(1).standard_normal(shape).astype(spec.dtype)
        inputs = {spec.name: tensor}
        names = [output.name for output in session.get_outputs()]
        np.testing.assert_array_equal(
            session.run(names, inputs)[0], model.infer(inputs)[names[0]], strict=True
        )
        result = compare(
            {
                "session": lambda: session.run(names, inputs),
                "runtime": lambda: model.infer(inputs),
            },
            baseline="session",
            config=BenchConfig(seconds=seconds, relative_width=0.0),
        )
        network = model.bundle.manifest.lineage.model
    values = result.to_dict()
    del values["samples_ms"]
    bare = result.runs["session"].latency_p50_ms
    overhead_us = 1000 * (result.runs["runtime"].latency_p50_ms - bare)
    allowed_us = max(50.0, 0.05 * 1000 * bare)
    return {
        "network": network,
        "overhead_p50_us": round(overhead_us, 2),
        "overhead_share": round(overhead_us / 1000 / bare, 5),
        "allowed_us": round(allowed_us, 2),
        "holds": overhead_us < allowed_us,
        "comparison": values,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--bundle", type=Path, help="measure this bundle too")
    arguments = parser.parse_args()
    results = []
    for facts in (
        {"width": 8, "layers": 1, "size": 8},
        {"width": 32, "layers": 6, "size": 32},
        {"width": 48, "layers": 8, "size": 56},
    ):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(write_bundle(Path(folder), **facts), arguments.seconds))
    if arguments.bundle is not None:
        results.append(measure(arguments.bundle, arguments.seconds))
    for row in results:
        print(
            f"{row['network']}: {row['overhead_p50_us']} µs over the bare session "
            f"({100 * float(str(row['overhead_share'])):.2f} %), allowed {row['allowed_us']} µs: "
            f"{'holds' if row['holds'] else 'FAILS'}"
        )
    facts = {
        "claim": __doc__.splitlines()[0],
        "command": f"python benchmarks/runtime_overhead.py --seconds {arguments.seconds:g}",
        "results": results,
    }
    RESULT.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
