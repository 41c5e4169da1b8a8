"""What every backend must do, written once against the interface.

A backend that cannot build or run on this machine skips with its own reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.backends import BACKENDS, get_backend
from edgevision.backends.base import Artifact, Backend, BuildOptions, Runner, ShapeRange
from edgevision.errors import InputError, ModelError, UnavailableError, UsageError
from tests.conformance.graphs import float_net

BATCH = ShapeRange(1, 1, 8)
PRECISIONS = {"fp32", "fp16", "bf16", "int8", "uint8", "int32", "int64", "bool", "none"}


@pytest.fixture(scope="module", params=[*BACKENDS.names(), "toy"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "toy":
        BACKENDS.add("toy", "tests.conformance.toy:ToyBackend")
    yield get_backend(request.param)
    if request.param == "toy":
        BACKENDS.remove("toy")


@pytest.fixture(scope="module")
def source(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return checkpoint(folder) if backend.name == "pytorch" else float_net(folder / "net.onnx")


@pytest.fixture(scope="module")
def options(backend: Backend) -> BuildOptions:
    ahead = ("86", "89") if backend.name == "tensorrt_rtx" and not backend.can_run().ok else ()
    return BuildOptions(batch=BATCH, compute_capabilities=ahead)


@pytest.fixture(scope="module")
def artifact(
    backend: Backend,
    source: Path,
    options: BuildOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    if not backend.is_available().ok:
        pytest.skip(f"{backend.name} does not build here: {backend.is_available().reason}")
    output = tmp_path_factory.mktemp("artifact") / f"model{backend.artifact_suffix}"
    return backend.build(source, output, options)


@pytest.fixture
def runner(backend: Backend, artifact: Artifact) -> Iterator[Runner]:
    if not backend.can_run().ok:
        pytest.skip(f"{backend.name} does not run here: {backend.can_run().reason}")
    with backend.open(artifact, threads=1) as opened:
        yield opened


def checkpoint(folder: Path) -> Path:
    import torch

    from edgevision.models import create
    from edgevision.models.checkpoint import ModelCard, save_checkpoint
    from edgevision.preprocessing import Preprocessing

    torch.manual_seed(0)
    module = create("plain-cnn", num_classes=10, in_channels=3, image_size=(16, 16))
    preprocessing = Preprocessing(height=16, width=16).to_dict()
    card = ModelCard(
        reference="plain-cnn",
        task="classification",
        labels=tuple("abcdefghij"),
        in_channels=3,
        preprocessing=preprocessing,
    )
    save_checkpoint(folder, module, card)
    return folder / "model.safetensors"


def batch_for(runner: Runner, count: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        spec.name: random.normal(size=(count, *spec.shape[1:])).astype(spec.dtype)
        for spec in runner.input_specs
    }


def moved(artifact: Artifact, folder: Path) -> Artifact:
    """The artifact with everything that lies beside it, in another place."""
    shutil.copytree(artifact.path.parent, folder, dirs_exist_ok=True)
    return replace(artifact, path=folder / artifact.path.name)


def test_it_is_found_under_its_own_name(backend: Backend) -> None:
    assert BACKENDS.get(backend.name) is type(backend)
    assert backend.artifact_suffix.startswith(".")
    assert backend.is_available().reason
    assert backend.can_run().reason


def test_where_it_is_missing_building_says_why(
    backend: Backend, source: Path, options: BuildOptions, tmp_path: Path
) -> None:
    available = backend.is_available()
    if available.ok:
        pytest.skip(f"{backend.name} builds here: {available.reason}")
    with pytest.raises(UnavailableError) as caught:
        backend.build(source, tmp_path / "out", options)
    assert available.reason in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 6
    assert not list(tmp_path.iterdir())


def test_where_it_cannot_run_opening_says_why(backend: Backend, artifact: Artifact) -> None:
    runs = backend.can_run()
    if runs.ok:
        pytest.skip(f"{backend.name} runs here: {runs.reason}")
    with pytest.raises(UnavailableError) as caught:
        backend.open(artifact)
    assert runs.reason in caught.value.message


def test_build_leaves_the_artifact_and_nothing_else(backend: Backend, artifact: Artifact) -> None:
    assert artifact.backend == backend.name
    assert artifact.path.stat().st_size > 0
    assert json.loads(json.dumps(artifact.meta)) == artifact.meta
    assert not [path for path in artifact.path.parent.iterdir() if path.name.startswith(".")]


def test_layer_report_names_precisions(backend: Backend, artifact: Artifact) -> None:
    layers = backend.layer_report(artifact)
    assert layers
    assert {layer.precision for layer in layers} <= PRECISIONS
    assert any(layer.precision == "fp32" for layer in layers)
    assert all(layer.time_ms is None or layer.time_ms >= 0 for layer in layers)


@pytest.mark.parametrize("kept", [0, 1, 200])
def test_a_cut_source_is_refused_and_the_old_artifact_stays(
    backend: Backend, artifact: Artifact, source: Path, options: BuildOptions, tmp_path: Path,
    kept: int,
) -> None:  # fmt: skip
    cut = tmp_path / "cut"
    shutil.copytree(source.parent, cut)
    (cut / source.name).write_bytes(source.read_bytes()[:kept])
    there = moved(artifact, tmp_path / "there")
    before = there.path.read_bytes()
    with pytest.raises(ModelError):
        backend.build(cut / source.name, there.path, options)
    assert there.path.read_bytes() == before
    assert not [path for path in there.path.parent.iterdir() if path.name.startswith(".")]


def test_a_missing_source_is_named(backend: Backend, artifact: Artifact, tmp_path: Path) -> None:
    missing = tmp_path / "none" / artifact.path.name
    with pytest.raises(InputError, match="none"):
        backend.build(missing, tmp_path / artifact.path.name)


def test_specs_tell_names_shapes_and_types(runner: Runner) -> None:
    outputs = runner.infer(batch_for(runner, 1))
    assert list(outputs) == [spec.name for spec in runner.output_specs]
    for spec in (*runner.input_specs, *runner.output_specs):
        assert isinstance(spec.shape[0], str), "the batch is dynamic"
    for spec in runner.output_specs:
        array = outputs[spec.name]
        assert spec.accepts(array.shape, array.dtype.name)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_gives_what_its_images_give(runner: Runner, count: int) -> None:
    together = batch_for(runner, count)
    outputs = runner.infer(together)
    for index in range(count):
        alone = runner.infer({name: array[index : index + 1] for name, array in together.items()})
        for name, array in alone.items():
            np.testing.assert_allclose(outputs[name][index], array[0], rtol=1e-4, atol=1e-4)


def test_outputs_belong_to_whom_it_says(runner: Runner) -> None:
    first = runner.infer(batch_for(runner, 2, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    second = runner.infer(batch_for(runner, 2, seed=2))
    for name, array in first.items():
        assert not np.array_equal(kept[name], second[name]), "the inputs differ"
        if not runner.outputs_reused:
            np.testing.assert_array_equal(array, kept[name])
            array += 1  # may be written to


def test_one_inference_is_under_way_at_a_time(runner: Runner) -> None:
    inputs, others = batch_for(runner, 2, seed=1), batch_for(runner, 2, seed=2)
    expected = {name: array.copy() for name, array in runner.infer(inputs).items()}
    pending = runner.infer_async(inputs)
    for start in (runner.infer, runner.infer_async):
        with pytest.raises(UsageError, match="under way"):
            start(others)
    outputs = pending.result()
    assert pending.result() is outputs
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)
    with pytest.raises(InputError, match="expected"):
        runner.infer_async({})
    runner.infer(others)
    runner.infer_async(others)  # nobody asks for it
    for name, array in runner.infer(inputs).items():
        np.testing.assert_array_equal(array, expected[name])
    late = runner.infer_async(inputs)
    runner.close()  # waits
    for name, array in late.result().items():
        np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(UsageError, match="closed"):
        runner.infer_async(inputs)


def test_forks_run_in_threads_of_their_own_and_outlive_the_first(
    backend: Backend, artifact: Artifact
) -> None:
    if not backend.can_run().ok:
        pytest.skip(f"{backend.name} does not run here: {backend.can_run().reason}")
    first = backend.open(artifact, threads=1)
    if backend.name == "toy":
        with pytest.raises(UsageError, match="cannot be shared"):
            first.fork()
        return
    forks = [first.fork(), first.fork()]
    batches = [batch_for(first, count, seed=count) for count in (1, 3)]
    expected = [first.infer(batch) for batch in batches]
    first.close()
    with pytest.raises(UsageError, match="closed"):
        first.fork()

    def run(index: int) -> list[dict[str, Any]]:
        return [dict(forks[index].infer(batches[index])) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for index, found in enumerate(pool.map(run, range(2))):
            for outputs in found:
                for name, array in outputs.items():
                    np.testing.assert_array_equal(array, expected[index][name])
    for fork in forks:
        fork.close()


def test_inputs_are_left_alone_whatever_their_layout(runner: Runner) -> None:
    plain = batch_for(runner, 2)
    expected = runner.infer(plain)
    for name, array in plain.items():
        strided = np.asfortranarray(array)
        strided.flags.writeable = False
        found = runner.infer({**plain, name: strided})
        np.testing.assert_array_equal(strided, array)
        for output in expected:
            np.testing.assert_allclose(found[output], expected[output], rtol=1e-5, atol=1e-5)


def test_wrong_inputs_are_told_with_expected_and_given(runner: Runner) -> None:
    good = batch_for(runner, 1)
    (name,) = good
    array = good[name]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "expected: .*given: "),
        ({"other": array}, "expected: .*other"),
        ({**good, "other": array}, "other"),
        ({name: array[0]}, "expected: .*given: "),
        ({name: array[:, :1]}, "expected: .*given: "),
        ({name: array[:0]}, "expected: .*given: "),
        ({name: array.astype(np.float64)}, "float64"),
        ({name: array.tolist()}, "numpy array"),
    ]
    for inputs, told in wrong:
        with pytest.raises(InputError, match=told):
            runner.infer(inputs)
    runner.infer(good)


def test_closing_twice_is_fine_and_use_after_is_not(backend: Backend, artifact: Artifact) -> None:
    if not backend.can_run().ok:
        pytest.skip(f"{backend.name} does not run here: {backend.can_run().reason}")
    runner = backend.open(artifact)
    inputs = batch_for(runner, 1)
    runner.infer(inputs)
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.infer(inputs)


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_cut_artifact_is_refused(
    backend: Backend, artifact: Artifact, tmp_path: Path, kept: int
) -> None:
    if not backend.can_run().ok:
        pytest.skip(f"{backend.name} does not run here: {backend.can_run().reason}")
    cut = moved(artifact, tmp_path)
    cut.path.write_bytes(cut.path.read_bytes()[:kept])
    with pytest.raises(InputError, match="model"):
        backend.open(cut)


def test_a_missing_artifact_is_named(backend: Backend, artifact: Artifact, tmp_path: Path) -> None:
    if not backend.can_run().ok:
        pytest.skip(f"{backend.name} does not run here: {backend.can_run().reason}")
    with pytest.raises(InputError, match="gone"):
        backend.open(replace(artifact, path=tmp_path / "gone"))


def test_threads_below_one_are_refused(backend: Backend, artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="threads"):
        backend.open(artifact, threads=0)


def test_listing_backends_imports_no_sdk() -> None:
    code = (
        "import sys; from edgevision.backends import BACKENDS, get_backend\n"
        "for name in BACKENDS: get_backend(name)\n"
        "print(*(n for n in ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt',"
        " 'tensorrt_rtx', 'cuda') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
