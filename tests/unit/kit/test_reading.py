"""Archives of whoever: damaged, cut short, or made to harm."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.errors import InputError
from edgevision.kit import reading
from edgevision.kit.reading import opened_result
from tests.unit.kit.conftest import Finished, pytestmark  # noqa: F401

Add = Callable[[tarfile.TarFile], None]


def file(name: str, data: bytes = b"x") -> Add:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    return add


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> Add:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)

    return add


def archive_of(path: Path, *members: Add, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=form) as archive:
        for add in members:
            add(archive)
    return path


def refusal(place: Path) -> str:
    with pytest.raises(InputError) as caught, opened_result(place):
        raise AssertionError("it was taken")
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_archive_and_the_folder_give_the_same_files(finished: Finished) -> None:
    with opened_result(finished.archive) as folder:
        found = {path.relative_to(folder): path.read_bytes()
                 for path in folder.rglob("*") if path.is_file()}  # fmt: skip
    assert not folder.exists(), "unpacked for the while"
    top = finished.kit / "result"
    assert found == {path.relative_to(top): path.read_bytes()
                     for path in top.rglob("*") if path.is_file()}  # fmt: skip
    assert len(found) > 30


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (file("../outside"), "of another place: '../outside'"),
        (file("/tmp/outside"), "of another place: '/tmp/outside'"),
        (file("result/../../outside"), "of another place"),
        (file("result//outside"), "of another place"),
        (file("other/model.engine"), "of another place"),
        (file("result"), "of another place"),
        (file("result/.hidden"), "of another place"),
        (file("result/a\\b"), "of another place"),
        (file("result/a\nb"), "of another place"),
        (special("result/link", tarfile.SYMTYPE), "no plain file: 'result/link'"),
        (special("result/link", tarfile.LNKTYPE, "result/kit.json"), "no plain file"),
        (special("result/pipe", tarfile.FIFOTYPE), "no plain file"),
        (special("result/disk", tarfile.BLKTYPE), "no plain file"),
        (special("result/../up", tarfile.DIRTYPE), "no plain file"),
    ],
)
def test_a_member_that_leads_elsewhere_is_refused(tmp_path: Path, member: Add, reason: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    assert reason in refusal(archive_of(inside / "result.tar.gz", member))
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "result.tar.gz"]


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    twice = archive_of(tmp_path / "1.tar.gz", file("result/a"), file("result/A"))
    assert "'A' twice" in refusal(twice)
    both = archive_of(tmp_path / "2.tar.gz", file("result/a"), file("result/a/b"))
    assert "as file and as folder" in refusal(both)
    other = archive_of(tmp_path / "3.tar.gz", file("result/a/b"), file("result/a"))
    assert "as file and as folder" in refusal(other)


def test_extensions_of_the_format_are_refused(tmp_path: Path) -> None:
    """Their data would be read into memory whatever its size, before anything is known of it."""
    long = file("result/" + "a" * 150)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert "no plain file" in refusal(archive_of(tmp_path / "x.tar.gz", long, form=form))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_TEXT", 1000)
    monkeypatch.setattr(reading, "_MOST_FILES", 3)
    large = archive_of(tmp_path / "1.tar.gz", file("result/times.json", bytes(1001)))
    assert "at most 1000 bytes, found: 1001" in refusal(large)
    many = archive_of(tmp_path / "2.tar.gz", *(file(f"result/{n}") for n in range(4)))
    assert "over 3 files" in refusal(many)
    # A header that promises more than there is.
    header = tarfile.TarInfo("result/model.engine")
    header.size = (8 << 30) - 1
    place = tmp_path / "3.tar.gz"
    place.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(512)))
    assert "cut short" in refusal(place)
    trailing = tmp_path / "4.tar.gz"
    trailing.write_bytes(gzip.compress(bytes(4 << 20)))
    assert "goes on after its end" in refusal(trailing)


def test_damage_is_told(finished: Finished, tmp_path: Path) -> None:
    whole = finished.archive.read_bytes()
    place = tmp_path / "result.tar.gz"
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:cut])
        assert "is no whole result" in refusal(place)
    place.write_bytes(gzip.decompress(whole))
    assert "Not a gzipped file" in refusal(place)
    assert "No result at" in refusal(tmp_path / "none")
    assert "there is no SHA256SUMS" in refusal(tmp_path)


def test_a_folder_that_is_not_what_its_sums_say_is_refused(
    finished: Finished, tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(finished.kit / "result", tmp_path / name)

    more = copy("more")
    (more / "more.txt").touch()
    assert "holds 'more.txt', which SHA256SUMS does not name" in refusal(more)
    less = copy("less")
    (less / "times.json").unlink()
    assert "lacks 'times.json'" in refusal(less)
    other = copy("other")
    with (other / "model.engine").open("r+b") as engine:
        engine.write(b"xxxx")
    assert "'model.engine' of the result is not what its hash says" in refusal(other)
    link = copy("link")
    (link / "facts.txt").unlink()
    (link / "facts.txt").symlink_to("/etc/hostname")
    assert "no plain file: 'facts.txt'" in refusal(link)
    pipe = copy("pipe")
    os.mkfifo(pipe / "pipe")
    assert "no plain file: 'pipe'" in refusal(pipe)
    lines = copy("lines")
    with (lines / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  ../outside\n")
    assert "a line of another form" in refusal(lines)


@pytest.mark.parametrize("rounds", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_mutated_archives_neither_crash_nor_leave_the_folder(
    finished: Finished, tmp_path: Path, rounds: int
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    place = inside / "result.tar.gz"
    tar = bytearray(gzip.decompress(finished.archive.read_bytes()))
    source = random.Random(4)
    taken = 0
    headers = [at for at in range(0, len(tar), 512) if tar[at + 257 : at + 262] == b"ustar"]
    for round_ in range(rounds):
        mutated = bytearray(tar)
        for _ in range(source.randint(1, 4)):
            at = source.choice(headers) + source.randrange(512)
            mutated[at] = source.randrange(256)
        if round_ % 2:  # a header whose checksum is right
            at = source.choice(headers)
            block = bytearray(tar[at : at + 512])
            for _ in range(3):
                block[source.randrange(148)] = source.choice(b"./0123456789ab\0")
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            mutated = tar[:at] + block + tar[at + 512 :]
        place.write_bytes(gzip.compress(bytes(mutated), 1))
        with contextlib.suppress(InputError), opened_result(place):
            taken += 1
    assert taken < rounds / 2, "most were refused"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "result.tar.gz"]
