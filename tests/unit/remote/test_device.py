"""A device over a real SSH connection: what runs there, and every way in which it goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.benchmark import BenchConfig
from edgevision.devices import this_machine
from edgevision.errors import (
    InputError,
    LostConnectionError,
    StorageError,
    UnavailableError,
    UsageError,
)
from edgevision.files import sha256_file
from edgevision.remote import Address, RemoteDevice, connect
from tests.conformance.graphs import float_net
from tests.unit.remote.conftest import Server

QUICK = BenchConfig(seconds=0.3, min_rounds=5)


@pytest.fixture
def graph(tmp_path: Path) -> Artifact:
    return Artifact("onnxruntime", float_net(tmp_path / "net.onnx"))


@pytest.fixture
def device(server: Server) -> Iterator[RemoteDevice]:
    with connect(server.url, **server.options) as found:
        yield found


def inputs_of(graph: Artifact) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    with get_backend("onnxruntime").open(graph) as runner:
        return {
            spec.name: generator.normal(
                size=[n if isinstance(n, int) else 2 for n in spec.shape]
            ).astype(spec.dtype)
            for spec in runner.input_specs
        }


def test_infers_what_this_machine_infers(device: RemoteDevice, graph: Artifact) -> None:
    inputs = inputs_of(graph)
    with get_backend("onnxruntime").open(graph) as runner:
        here = runner.infer(inputs)
    with device.open(graph) as runner:
        there = runner.infer(inputs)
        again = runner.infer(inputs)
    assert sorted(there) == sorted(here)
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values)
        np.testing.assert_array_equal(again[name], values)


def test_measures_there(device: RemoteDevice, graph: Artifact) -> None:
    told: list[tuple[str, float]] = []
    taken = device.measure(
        {"a": (graph, inputs := inputs_of(graph)), "b": (graph, inputs)},
        threads=1,
        config=QUICK,
        progress=lambda *what: told.append(what),
    )
    assert taken.samples.ns["a"].shape == taken.samples.ns["b"].shape
    assert (taken.samples.ns["a"] > 0).all()
    assert taken.environment["device"]["architecture"] == os.uname().machine
    assert {phase for phase, _ in told} >= {"warm-up", "measure"}


def test_survey_tells_machine_and_backends(device: RemoteDevice) -> None:
    assert device.facts == this_machine()
    assert device.can_run("onnxruntime").ok
    found = device.survey
    assert found["backends"]["onnxruntime"]["runs"]["ok"]
    assert not found["backends"]["tensorrt"]["runs"]["ok"]
    assert found["modules"]["numpy"] == np.__version__


def test_sends_once(server: Server, graph: Artifact) -> None:
    told: list[str] = []
    for _ in range(2):
        with connect(server.url, **server.options) as device:
            device.send([graph.path], lambda phase, done, total: told.append(phase))
            assert len(list((server.cache / "agents").iterdir())) == 1
    assert told.count(f"sending {graph.path.name}") == 2  # at the beginning and at the end
    assert not list((server.cache / "work").iterdir())


def test_a_damaged_file_is_sent_again(
    server: Server, device: RemoteDevice, graph: Artifact
) -> None:
    (name,) = device.send([graph.path])
    stored = server.cache / "files" / name
    stored.write_bytes(b"x" + stored.read_bytes()[1:])
    assert device.send([graph.path]) == [name]
    assert stored.read_bytes() == graph.path.read_bytes()


def test_errors_keep_their_kind(device: RemoteDevice, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"On .*127\.0\.0\.1.* is no whole ONNX file"):
        device.open(Artifact("onnxruntime", tmp_path / "bad.onnx"))


def test_names_that_leave_the_folder_are_refused(device: RemoteDevice) -> None:
    for name in ("../../etc/passwd", "x" * 64, "a" * 64 + "/..", 7):
        with pytest.raises(InputError, match="named by its sha256"):
            device._connection.call("missing", names=[name])


def test_unknown_host_key(server: Server, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    with (
        pytest.raises(UnavailableError, match=r"host key of .* is not one that is known") as caught,
        connect(server.url, **{**server.options, "known_hosts": str(tmp_path / "none")}),
    ):
        pass
    assert f"ssh -p {server.port}" in str(caught.value.hint)


def test_changed_host_key(server: Server, tmp_path: Path) -> None:
    other = (server.folder / "user_key.pub").read_text()
    (tmp_path / "other").write_text(f"[127.0.0.1]:{server.port} {other}")
    with (
        pytest.raises(UnavailableError, match="host key"),
        connect(server.url, **{**server.options, "known_hosts": str(tmp_path / "other")}),
    ):
        pass


def test_refused_login(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with (
        pytest.raises(UnavailableError, match="refuses the login") as caught,
        connect(server.url, **{**server.options, "client_keys": [str(key)]}),
    ):
        pass
    assert "ssh-copy-id" in str(caught.value.hint)


def test_nobody_there(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(UnavailableError, match="cannot be reached"),
        connect(server.address(port, "python3"), **server.options),
    ):
        pass


def test_no_such_interpreter(server: Server) -> None:
    with (
        pytest.raises(UnavailableError, match="cannot run '/no/python3'"),
        connect(server.address(server.port, "/no/python3"), **server.options),
    ):
        pass


class Cut:
    """A way to ``port`` that breaks after so many bytes towards it."""

    def __init__(self, port: int, after: int) -> None:
        self._left = after
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._back, args=(far, near), daemon=True).start()
        while self._left > 0 and (data := near.recv(4096)):
            far.sendall(data)
            self._left -= len(data)
        for end in (near, far):
            end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener.close()

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(65536):
                near.sendall(data)
        except OSError:
            pass


def test_a_cut_transfer_is_carried_on(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes(24 << 20))
    cut = Cut(server.port, 14 << 20)
    known = (server.folder / "known_hosts").read_text()
    (server.folder / "known_hosts").write_text(
        known + known.replace(str(server.port), str(cut.port))
    )
    url = server.address(cut.port, server.url.partition("python=")[2])
    with (
        pytest.raises(UnavailableError, match="was lost") as caught,
        connect(url, **server.options) as device,
    ):
        device.send([large])
    assert "carries on" in str(caught.value.hint)
    (part,) = (server.cache / "files").glob("*.part")
    arrived = part.stat().st_size
    assert 4 << 20 < arrived < 16 << 20
    told: list[int] = []
    with connect(server.url, **server.options) as device:
        (name,) = device.send([large], lambda phase, done, total: told.append(done))
    assert told[0] > arrived - (8 << 20)
    assert (server.cache / "files" / name).read_bytes() == large.read_bytes()
    assert not list((server.cache / "files").glob("*.part"))


@contextmanager
def small_disk(server: Server, megabytes: int) -> Iterator[None]:
    """A disk of that size under the device's cache within the block."""
    server.cache.parent.mkdir(exist_ok=True)
    place = str(server.cache.parent)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", place]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(8 << 20))
    with small_disk(server, 4):
        with connect(server.url, **server.options) as device:
            with pytest.raises(StorageError, match=r"would take 8 MB, [34] MB are free"):
                device.send([large])
            assert device.survey["modules"]["numpy"] is not None
        assert not list((server.cache / "files").iterdir())


def test_a_killed_agent(server: Server, graph: Artifact) -> None:
    with connect(server.url, **server.options) as device:

        def kill(phase: str, share: float) -> None:
            if phase == "measure":
                os.kill(device.hello["pid"], signal.SIGKILL)

        with pytest.raises(
            UnavailableError, match=r"ended without an answer \(killed by SIGKILL\)"
        ):
            device.measure(
                {"a": (graph, inputs_of(graph))}, config=BenchConfig(seconds=20), progress=kill
            )
    assert list((server.cache / "work").iterdir())
    with connect(server.url, **server.options) as device:
        device.measure({"a": (graph, inputs_of(graph))}, config=QUICK)
    assert not list((server.cache / "work").iterdir())


def test_two_at_once(server: Server, graph: Artifact) -> None:
    running, go_on = threading.Event(), threading.Event()

    def first() -> None:
        def told(phase: str, share: float) -> None:
            if phase == "measure":
                running.set()

        with connect(server.url, **server.options) as one:
            one.measure({"a": (graph, inputs)}, config=BenchConfig(seconds=2.0), progress=told)
        go_on.set()

    inputs = inputs_of(graph)
    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(30)
    with connect(server.url, **server.options) as two:
        with pytest.raises(UnavailableError, match=r"in use: .* has run 'bench' since"):
            two.measure({"a": (graph, inputs)}, config=QUICK)
        assert go_on.wait(30)
        two.measure({"a": (graph, inputs)}, config=QUICK)
    thread.join()


def test_whoever_goes_takes_the_agent_along(server: Server, graph: Artifact) -> None:
    class StoppedError(Exception):
        pass

    def stop(phase: str, share: float) -> None:
        if phase == "measure":
            raise StoppedError

    with connect(server.url, **server.options) as device, pytest.raises(StoppedError):
        device.measure(
            {"a": (graph, inputs_of(graph))}, config=BenchConfig(seconds=60), progress=stop
        )
    for _ in range(100):
        if not list((server.cache / "work").iterdir()):
            break
        time.sleep(0.05)
    assert not list((server.cache / "work").iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(device.hello["pid"], 0)


def test_what_is_open_does_not_hold_up_the_end(server: Server, graph: Artifact) -> None:
    class StoppedError(Exception):
        pass

    def stop(phase: str, share: float) -> None:
        if phase == "measure":
            raise StoppedError

    begun = time.monotonic()
    with (
        pytest.raises(StoppedError),
        connect(server.url, **server.options) as device,
        device.open(graph),
    ):
        device.measure(
            {"a": (graph, inputs_of(graph))}, config=BenchConfig(seconds=60), progress=stop
        )
    assert time.monotonic() - begun < 30


def test_a_kill_is_told_with_something_open(server: Server, graph: Artifact) -> None:
    with (
        pytest.raises(LostConnectionError, match="killed by SIGKILL"),
        connect(server.url, **server.options) as device,
        device.open(graph),
    ):
        device.measure(
            {"a": (graph, inputs_of(graph))},
            config=BenchConfig(seconds=60),
            progress=lambda phase, share: os.kill(device.hello["pid"], signal.SIGKILL),
        )


def test_nothing_is_asked_after_an_answer_was_given_up(server: Server, graph: Artifact) -> None:
    def stop(phase: str, share: float) -> None:
        if phase == "measure":
            raise ArithmeticError

    with connect(server.url, **server.options) as device:
        with pytest.raises(ArithmeticError):
            device.measure({"a": (graph, inputs_of(graph))}, config=QUICK, progress=stop)
        with pytest.raises(LostConnectionError, match="is no more"):
            device.send([graph.path])


def test_two_that_are_open_at_once_get_their_own_answers(server: Server, graph: Artifact) -> None:
    feeds = [
        {name: np.full_like(array, value) for name, array in inputs_of(graph).items()}
        for value in (1, 2)
    ]
    with (
        connect(server.url, **server.options) as device,
        device.open(graph) as first,
        device.open(graph) as second,
    ):
        alone = [runner.infer(fed) for runner, fed in zip((first, second), feeds, strict=True)]
        for _ in range(4):
            pending = first.infer_async(feeds[0])
            beside = second.infer(feeds[1])
            for found, expected in ((pending.result(), alone[0]), (beside, alone[1])):
                for name, array in expected.items():
                    np.testing.assert_array_equal(found[name], array)


def test_nothing_is_asked_after_the_end(server: Server, graph: Artifact) -> None:
    with connect(server.url, **server.options) as device:
        pass
    with pytest.raises(UsageError, match="was closed"):
        device.send([graph.path])


def test_several_send_the_same(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes(12 << 20))

    def send() -> list[str]:
        with connect(server.url, **server.options) as device:
            return device.send([large])

    with ThreadPoolExecutor(3) as pool:
        names = [future.result() for future in [pool.submit(send) for _ in range(3)]]
    assert names[0] == names[1] == names[2]
    assert (server.cache / "files" / names[0][0]).read_bytes() == large.read_bytes()


def test_what_is_there_of_a_file_needs_no_room(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes(10 << 20))
    with small_disk(server, 12), connect(server.url, **server.options) as device:
        part = server.cache / "files" / f"{sha256_file(large)}.bin.part"
        part.write_bytes(large.read_bytes()[: 8 << 20])
        assert device.send([large])


def test_an_interpreter_with_a_greeting(server: Server, tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\necho Hello\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    with connect(server.address(server.port, str(wrapper)), **server.options) as device:
        assert device.can_run("onnxruntime").ok


def test_a_wrong_configuration_of_the_user(server: Server, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host *\n Port abc\n")
    with (
        pytest.raises(UsageError, match="your SSH configuration"),
        connect("ssh://board", config=[str(tmp_path / "config")]),
    ):
        pass


def test_what_is_there_is_for_its_user_alone(server: Server, device: RemoteDevice) -> None:
    assert stat.S_IMODE(server.cache.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jetson.local", "no address"),
        ("http://jetson", "no address"),
        ("ssh://", "no address"),
        ("ssh://board/home", "no address"),
        ("ssh://board:port", "Port could not be cast"),
        ("ssh://me:secret@board", "password does not belong"),
        ("ssh://board?pyton=3", "unknown 'pyton'"),
    ],
)
def test_bad_addresses(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Address.parse(text)
    assert "secret" not in str(caught.value)


def test_addresses() -> None:
    whole = Address.parse("ssh://me@board:2222?python=~/venv/bin/python")
    assert whole == Address("board", "me", 2222, "~/venv/bin/python")
    assert str(whole) == "me@board:2222"
    assert Address.parse("ssh://board") == Address("board")
    assert Address.parse("ssh://Orin") == Address("Orin")
    assert Address.parse("ssh://ORIN@Orin:22").host == "Orin"
    assert whole.command("ssh-copy-id") == "ssh-copy-id -p 2222 me@board"


def test_an_engine_that_did_not_arrive_is_not_built_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = float_net(tmp_path / "net.onnx")
    options = BuildOptions(batch=ShapeRange(1, 1, 8), compute_capabilities=("86",))
    with connect(server.url, **server.options) as device, monkeypatch.context() as patch:

        def cut(*_: object) -> None:
            raise UnavailableError("cut")

        patch.setattr(device, "fetch", cut)
        with pytest.raises(UnavailableError, match="cut"):
            device.build("tensorrt_rtx", model, tmp_path / "net.engine", options)
    (engine,) = (server.cache / "builds").glob("*/net.engine")
    built = engine.stat().st_mtime_ns
    kept = engine.read_bytes()
    with connect(server.url, **server.options) as device:
        artifact = device.build("tensorrt_rtx", model, tmp_path / "net.engine", options)
    assert artifact.path.read_bytes() == kept
    assert artifact.layers
    assert built < artifact.path.stat().st_mtime_ns
    assert not list((server.cache / "builds").iterdir())


def test_a_builder_that_refuses_says_so_here(device: RemoteDevice, graph: Artifact) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = BuildOptions(compute_capabilities=("75",))
    with pytest.raises(UnavailableError, match="75"):
        device.build("tensorrt_rtx", graph.path, graph.path.with_suffix(".engine"), options)
