"""Ways to damage a bundle: its manifest, the files that it names, its folder, its zip."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Generator = random.Random

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    1e308,
    10**400,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "86",
    "../../outside/evil",
    "/evil",
    "C:\\evil",
    "a\0b",
    "\ud800",
    "[bold]\x1b[31m",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [1, "1", None, {}],
    "0" * 64,
    "golden/tensor.npy",
    "manifest.json",
    "engine",
    "tensorrt_rtx",
]
TEXTS = [
    b"",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"schema_version": ' + b"9" * 5000 + b"}",
    b'{"schema_version": NaN}',
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}",
    b'{"task": "\xc3\x28"}',
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to the values inside ``value``, not to the deepest."""
    children: list[tuple[Any, Any]] = []
    if len(path) > 20:
        return []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [path] * bool(path) + [p for k, v in children for p in places(v, (*path, k))]


def mutate_values(values: dict[str, Any], generator: Generator) -> None:
    """Take away, add or exchange one to four values."""
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        found = places(values)
        if not found:
            return
        place = generator.choice(found)
        holder: Any = values
        for key in place[:-1]:
            holder = holder[key]
        action = generator.random()
        if action < 0.2:
            del holder[place[-1]]
        elif action < 0.3 and isinstance(holder, dict):
            name = generator.choice(["extra", "path", "size", "version", "version_compatible"])
            holder[name] = _value(generator)
        elif action < 0.4 and isinstance(holder, list):
            holder.append(_value(generator, *holder))
        elif action < 0.45:
            for _ in range(generator.choice([3, 60])):
                holder[place[-1]] = {"a": [holder[place[-1]]]}
        else:
            holder[place[-1]] = _value(generator)


def _value(generator: Generator, *more: Any) -> Any:
    return copy.deepcopy(generator.choice([*VALUES, *more]))  # values are changed again in place


def damaged(data: bytes, generator: Generator) -> bytes:
    """``data`` cut short, with bytes taken out, or with bytes changed."""
    if not data:
        return b"\0"
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


def mutate_json(data: bytes, generator: Generator) -> bytes:
    """Another JSON text, or none at all."""
    action = generator.random()
    if action < 0.15:
        return generator.choice(TEXTS)
    if action < 0.35:
        return damaged(data, generator)
    values = json.loads(data)
    if isinstance(values, dict):
        mutate_values(values, generator)
    return json.dumps(values).encode()


def mutate_manifest(folder: Path, generator: Generator) -> None:
    """Damage the manifest, which no hash protects."""
    path = folder / "manifest.json"
    if generator.random() < 0.75:
        path.write_bytes(mutate_json(path.read_bytes(), generator))
        return
    values = json.loads(path.read_bytes())  # what is said of the engine may be anything
    (engine,) = [entry for entry in values["artifacts"] if entry["kind"] == "engine"]
    mutate_values(engine["meta"], generator)
    path.write_text(json.dumps(values))


def mutate_file(folder: Path, generator: Generator) -> None:
    """Damage a file beside the manifest; mostly its new hash is stored, so that it is read."""
    chosen = [path for path in folder.rglob("*") if path.suffix in (".json", ".npy", ".png")]
    engines = sorted(folder.rglob("*.engine"))
    names = sorted(path for path in chosen if path.name != "manifest.json")
    sidecars = [path for path in names if path.name.endswith(".engine.json")]
    path = generator.choice([*sidecars * 6, *names, *engines])
    data = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(mutate_json(data, generator))
    else:
        path.write_bytes(damaged(data, generator))
    if generator.random() < 0.85:
        restate(folder, path)


def restate(folder: Path, path: Path) -> None:
    """Write size and hash of ``path``, as they are now, into the manifest."""
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_bytes())
    name, data = path.relative_to(folder).as_posix(), path.read_bytes()
    for entry in values["artifacts"]:
        if entry["path"] == name:
            entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(values))


def mutate_folder(folder: Path, generator: Generator) -> None:
    """Put links, pipes, folders, strangers or nothing where files were."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = generator.choice(files), generator.choice(files)
    action = generator.randrange(8)
    if action == 0:
        path.unlink()
        path.symlink_to(folder.parent / "outside" / "secret")
    elif action == 1:
        path.unlink()
        os.mkfifo(path)
    elif action == 2:
        path.unlink()
        path.mkdir()
    elif action == 3:
        path.write_bytes(b"")
    elif action == 4:
        deep = folder.joinpath(*["d"] * generator.choice([2, 60]))
        deep.mkdir(parents=True)
        (deep / "stranger").write_bytes(b"x")
    elif action == 5:
        shutil.rmtree(folder / "golden")
        (folder / "golden").symlink_to(folder.parent / "outside")
    elif action == 6:
        shutil.copyfile(other, path) if other != path else path.unlink()
    else:
        os.truncate(path, generator.choice([1, 1 << 33]))  # sparse: eight gigabytes of nothing


def mutate_zip(good: bytes, generator: Generator) -> bytes:
    """A zip with damaged bytes, or a whole one with entries that no bundle has."""
    if generator.random() < 0.5:
        return damaged(good, generator)
    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(good)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        warnings.simplefilter("ignore")  # of duplicate names
        infos = old.infolist()
        at = generator.randrange(len(infos))
        change = generator.choice(_ENTRIES)
        for number, info in enumerate(infos):
            data = old.read(info)
            if number == at:
                change(new, info, data, generator)
            else:
                new.writestr(info, data)
    out = bytearray(buffer.getvalue())
    if generator.random() < 0.2:
        _lie(out, generator)
    return bytes(out)


def _lie(out: bytearray, generator: Generator) -> None:
    """Change a number in the zip's directory: an entry's flags, method, checksum, size, place."""
    entries = [at for at in range(len(out) - 46) if out[at : at + 4] == b"PK\x01\x02"]
    at = generator.choice(entries)
    place, form = generator.choice(
        [(8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I")]
    )
    largest = (1 << (8 * struct.calcsize(form))) - 1
    value = generator.choice([0, 1, 2, 93, largest, generator.randrange(largest)])
    struct.pack_into(form, out, at + place, value)


def _renamed(*names: str) -> Callable[..., None]:
    def change(
        new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator
    ) -> None:
        new.writestr(info, data)
        new.writestr(generator.choice(names), data)

    return change


def _of_mode(kind: int) -> Callable[..., None]:
    def change(
        new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator
    ) -> None:
        info.external_attr = (kind | 0o777) << 16
        new.writestr(info, b"../../outside/secret")

    return change


def _twice(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator) -> None:
    new.writestr(info.filename, data)
    new.writestr(generator.choice([info.filename, info.filename.upper()]), data)


def _bomb(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator) -> None:
    new.writestr(info.filename, bytes(generator.choice([1 << 16, 1 << 22])))


def _manifest(
    new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator
) -> None:
    if info.filename == "manifest.json":
        data = mutate_json(data, generator)
    new.writestr(info, data)


def _gone(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, generator: Generator) -> None:
    pass


_LEAVING = ("../outside/evil", "/evil", "a/../../outside/evil", "C:/evil", "a\\..\\evil", "ä/b")
_ENTRIES: list[Callable[..., None]] = [
    _renamed(*_LEAVING),
    _renamed("x" * 300, "golden", "manifest.json/x", "a/" * 90 + "a", ".hidden", "golden/"),
    _of_mode(stat.S_IFLNK),
    _of_mode(stat.S_IFIFO),
    _twice,
    _bomb,
    _manifest,
    _gone,
]
