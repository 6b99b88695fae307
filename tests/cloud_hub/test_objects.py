"""The contract of `Objects`, held by the directory, by S3 and by the fake alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_hub import objects as module
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.objects import LocalObjects, open_objects
from cloud_hub.ports import Objects
from tests.support import bucket


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with bucket.serving() as said:
        yield said


@pytest.fixture(params=["directory", "memory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        return open_objects(f"s3://{bucket.BUCKET}/{tmp_path.name}")
    return open_objects(str(tmp_path / "objects") if request.param == "directory" else "memory://")


def test_put_new_creates_once(objects: Objects) -> None:
    assert objects.put_new("a/b", b"one")
    assert not objects.put_new("a/b", b"two")
    assert objects.get("a/b").data == b"one"


def test_compare_and_swap(objects: Objects) -> None:
    first = objects.put_if_match("t", b"1", None)
    assert objects.get("t").tag == first
    second = objects.put_if_match("t", b"2", first)
    for stale in (first, None):
        with pytest.raises(ConflictError):
            objects.put_if_match("t", b"3", stale)
    assert objects.get("t") == (b"2", second)


def test_a_swap_of_what_was_deleted_meanwhile_is_a_conflict(objects: Objects) -> None:
    tag = objects.put_if_match("t", b"1", None)
    objects.delete("t")
    with pytest.raises(ConflictError):
        objects.put_if_match("t", b"2", tag)
    assert not objects.exists("t")


def test_only_one_of_many_swaps_wins(objects: Objects) -> None:
    tag = objects.put_if_match("t", b"0", None)
    won: list[int] = []

    def swap(number: int) -> None:
        try:
            objects.put_if_match("t", str(number).encode(), tag)
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=swap, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("t").data == str(won[0]).encode()


def test_ranges_and_streams(objects: Objects) -> None:
    data = bytes(range(256)) * 40
    objects.put("x", data)
    assert objects.get_range("x", 10, 5) == data[10:15]
    assert objects.get_range("x", len(data) - 3, 100) == data[-3:]
    assert b"".join(objects.stream("x", chunk=1000)) == data
    assert b"".join(objects.stream("x", 5, 2000, chunk=300)) == data[5:2005]


def test_put_file(objects: Objects, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    assert objects.put_file("blobs/x", source)
    assert not objects.put_file("blobs/x", source)
    assert objects.get("blobs/x").data == b"content"


def test_list_info_delete(objects: Objects) -> None:
    for key in ("a/1", "a/2", "b/1"):
        objects.put(key, b"xy")
    assert sorted(item.key for item in objects.list("a")) == ["a/1", "a/2"]
    found = objects.info("a/1")
    assert found is not None and found.size == 2
    objects.delete("a/1")
    objects.delete("a/1")
    assert not objects.exists("a/1")
    assert objects.info("a/1") is None
    assert list(objects.list("nothing")) == []


def test_missing_objects(objects: Objects) -> None:
    with pytest.raises(NotFoundError):
        objects.get("nope")
    with pytest.raises(NotFoundError):
        list(objects.stream("nope"))
    with pytest.raises(NotFoundError):
        objects.get_range("nope", 0, 1)


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a/"])
def test_keys_that_are_none(objects: Objects, key: str, tmp_path: Path) -> None:
    for call in (lambda: objects.put(key, b""), lambda: objects.get(key), lambda: objects.delete(key)):
        with pytest.raises(InvalidError):
            call()


def test_two_stores_on_one_directory_share_the_lock(tmp_path: Path) -> None:
    one, two = LocalObjects(tmp_path / "o"), LocalObjects(tmp_path / "o")
    tag = one.put_if_match("t", b"1", None)
    assert two.put_if_match("t", b"2", tag)
    with pytest.raises(ConflictError):
        one.put_if_match("t", b"3", tag)


def test_unknown_url() -> None:
    with pytest.raises(InvalidError, match="unknown object store"):
        open_objects("ftp://x")


def test_every_folder_that_a_key_made_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, synced = LocalObjects(tmp_path / "objects"), set[Path]()
    store.put("async/1/request", b"x")
    monkeypatch.setattr(module, "sync", synced.add)
    store.put("async/2/request", b"x")
    names = ("", "async", "async/2", "async/2/request")
    assert synced == {tmp_path / "objects" / name for name in names}


def test_a_folder_inside_another_goes_with_its_last_object(tmp_path: Path) -> None:
    store, root = LocalObjects(tmp_path / "objects"), tmp_path / "objects"
    for key in ("async/1/request", "async/1/answer", "async/2/request"):
        store.put(key, b"x")
    store.delete("async/1/request")
    store.delete("async/1/answer")
    assert [found.name for found in (root / "async").iterdir()] == ["2"]
    store.delete("async/2/request")
    assert list(root.rglob("*")) == [root / "async"]
    store.put("async/1/request", b"y")
    assert store.get("async/1/request").data == b"y"


def test_whoever_puts_an_object_where_another_is_deleted_has_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "sync", lambda path: None)
    store = LocalObjects(tmp_path / "objects")

    def turn(name: str) -> None:
        for _ in range(300):
            store.put(f"a/b/{name}", b"x")
            assert store.put_new(f"a/b/{name}-new", b"x")
            store.delete(f"a/b/{name}")
            store.delete(f"a/b/{name}-new")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(turn, "1234"))
    assert list((tmp_path / "objects").rglob("*")) == [tmp_path / "objects" / "a"]
