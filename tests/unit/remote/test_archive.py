"""The agent's archive: whole, the same every time, and for the Pythons that boards have."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgevision.remote.archive import agent_archive, agent_files

# Interpreters of JetPack 5, 6 and 7, and whatever else is named: paths with a colon between.
NAMED = os.environ.get("EDGEVISION_TEST_PYTHONS", "").split(":")
BOARDS = ("3.8", "3.10", "3.12")


def interpreters() -> list[str]:
    """Those of ``BOARDS`` that are here, this one, and the named ones."""
    found = [sys.executable, *filter(None, NAMED)]
    for version in BOARDS:
        own = Path.home() / ".pyenv" / "versions"
        paths = [*sorted(map(str, own.glob(f"{version}.*/bin/python"))), f"python{version}"]
        found += [path for path in map(shutil.which, paths) if path is not None][:1]
    return [path for path in dict.fromkeys(found) if _runs(path)]


def _runs(path: str) -> bool:
    """Whether it is an interpreter: a version manager's stand-in may name one that is not there."""
    return subprocess.run([path, "-c", ""], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    path.write_bytes(agent_archive())
    return path


def test_is_the_same_every_time() -> None:
    first = agent_archive()
    agent_archive.cache_clear()
    assert agent_archive() == first
    with zipfile.ZipFile(io.BytesIO(first)) as opened:
        assert len(opened.namelist()) == len(agent_files()) + 1
    assert len(first) < 200_000


def test_needs_no_python_above_3_8() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run(
        [str(vermin), "-t=3.8-", "--no-tips", "--no-eval-annotations", *map(str, agent_files())],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


_IMPORT_ALL = """
import sys, zipfile
from importlib import import_module
sys.path.insert(0, sys.argv[1])
files = [n for n in zipfile.ZipFile(sys.argv[1]).namelist() if n.endswith(".py")]
names = [n[:-3].replace("/", ".") for n in files]
for name in names:
    if name != "__main__":
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != "numpy":
                raise
from edgevision.devices.jetson import jetpacks_of
assert jetpacks_of("36.4.3")
print("torch" in sys.modules, "pydantic" in sys.modules)
"""


@pytest.mark.parametrize("python", interpreters())
def test_every_module_imports(archive: Path, python: str) -> None:
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", _IMPORT_ALL, str(archive)],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("False False\n", "")


@pytest.mark.parametrize("python", interpreters())
def test_answers(archive: Path, python: str, tmp_path: Path) -> None:
    request = json.dumps({"task": "survey", "arguments": {}}) + "\n"
    agent = subprocess.Popen(
        [python, "-I", str(archive), str(tmp_path / "root")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    hello = json.loads(agent.stdout.readline())["hello"]
    assert hello["python"].split(".")[0] == "3"
    agent.stdin.write(request)
    agent.stdin.flush()
    answer = json.loads(agent.stdout.readline())
    _, errors = agent.communicate(timeout=30)
    assert errors == ""
    assert agent.returncode == 0
    found = answer["result"]
    assert found["root"] == str(tmp_path / "root")
    if found["modules"]["numpy"] is not None:
        assert set(found["backends"]) >= {"onnxruntime", "tensorrt", "tensorrt_rtx"}
    assert not list((tmp_path / "root" / "work").iterdir())


def test_an_old_python_says_so(archive: Path, tmp_path: Path) -> None:
    old = sorted((Path.home() / ".pyenv" / "versions").glob("3.[67].*/bin/python"))
    if not old:
        pytest.skip("no Python below 3.8 here")
    done = subprocess.run(
        [str(old[0]), "-I", str(archive), str(tmp_path / "root")],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
    )
    told = json.loads(done.stdout)["error"]
    assert told["kind"] == "UnavailableError"
    assert "it needs 3.8 or later" in told["message"]
