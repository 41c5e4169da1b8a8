from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevision.agent.store import Store
from edgevision.errors import InputError

DATA = b"engine" * 100
NAME = f"{hashlib.sha256(DATA).hexdigest()}.bin"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "cache")
    yield opened
    opened.close()


def test_what_was_sent_is_taken_over(store: Store) -> None:
    (store.files / f"{NAME}.part").write_bytes(DATA)
    store.accept(NAME)
    assert store.path(NAME).read_bytes() == DATA
    assert [path.name for path in store.files.iterdir()] == [NAME]


@pytest.mark.parametrize("part", [None, DATA[:50], bytes(len(DATA))])
def test_another_process_that_sent_the_same_was_first(store: Store, part: bytes | None) -> None:
    store.path(NAME).write_bytes(DATA)
    if part is not None:
        (store.files / f"{NAME}.part").write_bytes(part)
    store.accept(NAME)
    assert store.path(NAME).read_bytes() == DATA
    assert [path.name for path in store.files.iterdir()] == [NAME]


@pytest.mark.parametrize("part", [None, DATA[:50], bytes(len(DATA))])
@pytest.mark.parametrize("there", [None, b"damaged"])
def test_what_arrived_damaged_is_thrown_away(
    store: Store, part: bytes | None, there: bytes | None
) -> None:
    if there is not None:
        store.path(NAME).write_bytes(there)
    if part is not None:
        (store.files / f"{NAME}.part").write_bytes(part)
    with pytest.raises(InputError, match="arrived damaged: sha256 expected"):
        store.accept(NAME)
    assert not (store.files / f"{NAME}.part").exists()
