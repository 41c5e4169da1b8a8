"""Thousands of damaged bundles: a ``BundleError`` or the right bundle, nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevision.bundle import open_bundle, write_zip
from edgevision.errors import BundleError

Write = Callable[[Path, Path], Path]

_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    10**400,
    "",
    "x",
    "../../evil",
    "/evil",
    "a\0b",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "0" * 64,
    "golden/tensor.npy",
    "manifest.json",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write: Write) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "bundle", tmp_path_factory.mktemp("source"))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [path] * bool(path) + [p for k, v in children for p in _places(v, (*path, k))]


def _mutate(values: dict[str, Any], generator: random.Random) -> None:
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        place = generator.choice(_places(values))
        holder: Any = values
        for key in place[:-1]:
            holder = holder[key]
        action = generator.random()
        if action < 0.2:
            del holder[place[-1]]
        elif action < 0.3 and isinstance(holder, dict):
            holder[generator.choice(["extra", "path", "size"])] = generator.choice(_VALUES)
        elif action < 0.4 and isinstance(holder, list):
            holder.append(generator.choice([*_VALUES, *holder]))
        else:
            holder[place[-1]] = generator.choice(_VALUES)
        if not values:
            return


def test_mutated_manifests(whole: Path) -> None:
    manifest = whole / "manifest.json"
    good = manifest.read_bytes()
    generator = random.Random(7)
    refused = 0
    try:
        for _ in range(1500):
            values = json.loads(good)
            _mutate(values, generator)
            manifest.write_text(json.dumps(values))
            message = _refusal(whole)
            refused += message is not None
            assert message is None or 0 < len(message) < 2000
    finally:
        manifest.write_bytes(good)
    assert 1000 < refused < 1500, "mutations have to reach both outcomes"


def test_mutated_bytes_of_a_manifest(whole: Path) -> None:
    manifest = whole / "manifest.json"
    good = manifest.read_bytes()
    generator = random.Random(8)
    try:
        for _ in range(1000):
            manifest.write_bytes(_damaged(good, generator))
            _refusal(whole)
    finally:
        manifest.write_bytes(good)


def test_mutated_zips(whole: Path, tmp_path: Path) -> None:
    good = write_zip(whole, tmp_path / "good.zip").read_bytes()
    expected = (whole / "manifest.json").read_bytes()
    place = tmp_path / "deep" / "inside"
    place.mkdir(parents=True)
    bad = place / "bad.zip"
    generator = random.Random(9)
    refused = 0
    for _ in range(1500):
        bad.write_bytes(_damaged(good, generator))
        try:
            with open_bundle(bad) as opened:
                # What opens is the whole bundle: the damage fell on bytes that mean nothing.
                assert (opened.folder / "manifest.json").read_bytes() == expected
        except BundleError:
            refused += 1
    assert refused > 1000
    assert [path.name for path in place.iterdir()] == ["bad.zip"], "a file was written outside"


def _refusal(path: Path) -> str | None:
    try:
        open_bundle(path).close()
    except BundleError as error:
        return error.message
    return None


def _damaged(data: bytes, generator: random.Random) -> bytes:
    out = bytearray(data)
    action = generator.random()
    if action < 0.15:
        return bytes(out[: generator.randrange(len(out))])
    if action < 0.25:
        start = generator.randrange(len(out))
        del out[start : start + generator.randrange(1, 64)]
        return bytes(out)
    # Damage to a zip's directory, which is at the end, is likelier to be of interest.
    start = len(out) * 2 // 3 if generator.random() < 0.5 else 0
    for _ in range(generator.choice([1, 1, 2, 8])):
        out[generator.randrange(start, len(out))] = generator.randrange(256)
    return bytes(out)
