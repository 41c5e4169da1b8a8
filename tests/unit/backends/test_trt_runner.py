"""Running a plan, over stand-ins for the vendor module and for CUDA: shapes, memory, ownership."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.backends._trt_log import Log
from edgevision.backends._trt_runner import TensorRTRunner, check_header, deserialize, inspect
from edgevision.errors import InputError, ModelError, UnavailableError, UsageError
from edgevision.types import TensorSpec
from tests.conformance.graphs import images
from tests.unit.backends.vendor import SINCE_10, VERSIONS, HostCuda, Script, plan, vendor


def opened(
    version: str = "10.3", script: Script | None = None, cuda: HostCuda | None = None
) -> TensorRTRunner:
    return TensorRTRunner.open(
        vendor(version, script or Script()), plan(), "net.engine", cuda or HostCuda()
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("integrated", [False, True])
def test_it_runs_with_the_names_of_every_version(version: str, integrated: bool) -> None:
    cuda = HostCuda(integrated=integrated)
    with opened(version, cuda=cuda) as runner:
        assert runner.input_specs == (TensorSpec("images", ("batch", 3, 16, 16)),)
        assert runner.output_specs == (TensorSpec("logits", ("batch", 3, 16, 16)),)
        for count in (1, 4, 2, 2):
            batch = images(count, seed=count)
            np.testing.assert_array_equal(runner.infer({"images": batch})["logits"], batch * 2)
    assert cuda.copies == ([] if integrated else ["to device", "to host"] * 4)
    assert not cuda.held
    assert cuda.streams == 0


def test_outputs_are_the_callers_own() -> None:
    with opened() as runner:
        first = runner.infer({"images": images(2, seed=1)})["logits"]
        kept = first.copy()
        runner.infer({"images": images(2, seed=2)})
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_the_shape_is_set_only_when_it_changes() -> None:
    script = Script()
    with opened(script=script) as runner:
        script.calls.clear()
        for count in (2, 2, 3):
            runner.infer({"images": images(count)})
    assert script.calls.count("IExecutionContext.set_input_shape") == 2


def test_a_batch_beyond_the_profile_is_refused_with_the_limits() -> None:
    with opened() as runner:
        with pytest.raises(InputError, match=r"\[1, 3, 16, 16\] to \[4, 3, 16, 16\].*\[5, 3"):
            runner.infer({"images": images(5)})
        runner.infer({"images": images(4)})


def test_an_engine_that_does_not_load_tells_why_and_frees_everything() -> None:
    script = Script()
    script.load_error = "The engine plan file is generated on an incompatible device"
    cuda = HostCuda()
    with pytest.raises(InputError, match=r"net\.engine.*incompatible device"):
        opened(script=script, cuda=cuda)
    assert not cuda.held
    assert cuda.streams == 0


def test_an_output_of_unknown_size_is_refused_and_everything_freed() -> None:
    script = Script()
    script.shape = (-1, 3, -1, 16)
    cuda = HostCuda()
    trt = vendor("10.3", script)
    trt.IExecutionContext.get_tensor_shape = lambda self, name: (-1, 3)
    trt.ICudaEngine.get_tensor_profile_shape = lambda self, name, at: [(1, 3, 16, 16)] * 3
    with pytest.raises(ModelError, match="depends on the data"):
        TensorRTRunner.open(trt, plan(), "net.engine", cuda)
    assert not cuda.held
    assert cuda.streams == 0


def test_forks_share_the_engine_and_nothing_else() -> None:
    script, cuda = Script(), HostCuda()
    first = opened(script=script, cuda=cuda)
    held = len(cuda.held)
    fork = first.fork()
    assert script.calls.count("Runtime.deserialize_cuda_engine") == 1
    assert (len(cuda.held), cuda.streams) == (2 * held, 2)
    under_way = first.infer_async({"images": images(2, seed=1)})
    np.testing.assert_array_equal(
        fork.infer({"images": images(2, seed=2)})["logits"], images(2, seed=2) * 2
    )
    np.testing.assert_array_equal(under_way.result()["logits"], images(2, seed=1) * 2)
    first.close()
    batch = images(3)
    np.testing.assert_array_equal(fork.infer({"images": batch})["logits"], batch * 2)
    fork.close()
    assert not cuda.held
    assert cuda.streams == 0


def test_closing_twice_is_fine_and_use_after_is_not() -> None:
    runner = opened()
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.infer({"images": images(1)})


def test_the_header_tells_version_and_kind() -> None:
    assert check_header(plan(), b"ftrt", "net.engine") == "10.3.0.26"
    with pytest.raises(InputError, match="a plan of TensorRT-RTX"):
        check_header(plan(b"vtrt"), b"ftrt", "net.engine")
    for cut in (b"", b"ftrt", plan()[:27], b"\x80\x05pickle" * 9):
        with pytest.raises(InputError, match=r"net\.engine"):
            check_header(cut, b"ftrt", "net.engine")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inspector_is_asked_for_json(version: str) -> None:
    script = Script()
    script.inspector = '{"Layers": []}'
    trt = vendor(version, script)
    owners = deserialize(trt, plan(), "net.engine", Log())
    assert inspect(trt, owners[2]) == '{"Layers": []}'


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dla_core_is_set_before_the_plan_is_read(version: str) -> None:
    script = Script()
    deserialize(vendor(version, script), plan(), "net.engine", Log(), dla_core=1)
    assert script.calls.index("Runtime.DLA_core=1") < script.calls.index(
        "Runtime.deserialize_cuda_engine"
    )
    script = Script()
    deserialize(vendor(version, script), plan(), "net.engine", Log())
    assert not [call for call in script.calls if "DLA" in call]


@pytest.mark.parametrize("version", VERSIONS)
def test_code_for_the_cpu_is_allowed_only_where_asked(version: str) -> None:
    script = Script()
    trt = vendor(version, script)
    deserialize(trt, plan(), "net.engine", Log())
    assert not [call for call in script.calls if "host_code" in call]
    deserialize(trt, plan(), "net.engine", Log(), host_code=True)
    told = [call for call in script.calls if "host_code" in call]
    assert told == ([] if version == "8.5" else ["Runtime.engine_host_code_allowed=True"])


@pytest.mark.parametrize("version", SINCE_10)
def test_an_engine_that_streams_weights_gets_the_vendors_own_budget(version: str) -> None:
    for streamable, told in ((0, []), (1000, ["ICudaEngine.weight_streaming_budget_v2=500"])):
        script = Script()
        script.streamable = streamable
        deserialize(vendor(version, script), plan(), "net.engine", Log())
        assert [call for call in script.calls if "budget_v2" in call] == told


def test_no_runtime_is_told_with_the_vendors_reason() -> None:
    trt = vendor("10.3", Script())

    def none(logger: object) -> object:
        logger.log(trt.ILogger.ERROR, "no driver")  # type: ignore[attr-defined]
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = none
    with pytest.raises(UnavailableError, match=r"'net\.engine' cannot be loaded here: no driver"):
        deserialize(trt, plan(), "net.engine", Log())
