"""Power loss, by replay: what an update wrote is recorded, and a disk is built as it may be after a power cut.

The model is what POSIX promises and no more (Pillai et al., ALICE, OSDI 2014). A file's bytes are on the
disk once fsync or fdatasync of that file returned; a name is once fsync of its folder returned. Of
everything later, any part may be there: writes whole, torn or missing, names in any order. One rename
is atomic. Memory-mapped writes are not seen: only SQLite's `-shm` has them, which it makes anew.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

from tests.support.faults.record import Op


class Node:
    """A file, folder or link. `durable` is what is surely on the disk, `pending` what came after."""

    def __init__(self, kind: str, *, target: str = "") -> None:
        self.kind, self.target = kind, target
        self.durable = b""
        self.data = bytearray()
        self.pending: list[Op] = []  # of a file: writes and truncations
        self.names: dict[str, Node] = {}
        self.durable_names: dict[str, Node] = {}
        self.changes: list[tuple[str, str, Node | None, str]] = []  # of a folder: (what, name, node, new name)


class Disk:
    """A file system in memory that knows what would survive."""

    def __init__(self, image: Path) -> None:
        self.root = _load(image)

    def _find(self, path: str) -> Node:
        node = self.root
        for part in path.split("/") if path else ():
            node = node.names[part]
        return node

    def _folder(self, path: str) -> tuple[Node, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder), name

    def apply(self, op: Op) -> None:
        """Let one operation happen."""
        getattr(self, f"_{op.kind}")(op)

    def _add(self, path: str, node: Node) -> None:
        folder, name = self._folder(path)
        folder.names[name] = node
        folder.changes.append(("add", name, node, ""))

    def _make(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        if name not in folder.names:
            self._add(op.path, Node("file"))

    def _mkdir(self, op: Op) -> None:
        self._add(op.path, Node("folder"))

    def _symlink(self, op: Op) -> None:
        self._add(op.path, Node("link", target=op.other))

    def _chmod(self, op: Op) -> None:
        self._find(op.path)

    def _write(self, op: Op) -> None:
        node = self._find(op.path)
        at = len(node.data) if op.at < 0 else op.at
        _put(node.data, at, op.data)
        node.pending.append(Op(kind="write", path="", data=op.data, at=at))

    def _truncate(self, op: Op) -> None:
        node = self._find(op.path)
        _cut(node.data, op.at)
        node.pending.append(Op(kind="truncate", path="", at=op.at))

    def _sync(self, op: Op) -> None:
        node = self._find(op.path)
        if node.kind == "folder":
            node.durable_names, node.changes = dict(node.names), []
        else:
            node.durable, node.pending = bytes(node.data), []

    def _unlink(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        folder.changes.append(("remove", name, folder.names.pop(name), ""))

    def _rename(self, op: Op) -> None:
        (old, name), (new, other) = self._folder(op.path), self._folder(op.other)
        node = old.names.pop(name)
        new.names[other] = node
        if old is new:
            old.changes.append(("move", name, node, other))
        else:
            old.changes.append(("remove", name, node, ""))
            new.changes.append(("add", other, node, ""))

    def data(self, path: str) -> bytes:
        """The content of a file as long as the power is there."""
        return bytes(self._find(path).data)

    def after_power_loss(self, rng: random.Random, to: Path, mode: str) -> None:
        """Write a disk as it may be found. `mode`: `nothing` of what is unsynced is there, `names` are but
        no bytes, or `anything`: each write and each name by chance, torn and out of order."""
        _store(self.root, to, rng, mode)


def _put(data: bytearray, at: int, piece: bytes) -> None:
    if len(data) < at:
        data.extend(bytes(at - len(data)))
    data[at : at + len(piece)] = piece


def _cut(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


def _load(path: Path) -> Node:
    if path.is_symlink():
        return Node("link", target=str(path.readlink()))
    if path.is_dir():
        node = Node("folder")
        node.names = {child.name: _load(child) for child in path.iterdir()}
        node.durable_names = dict(node.names)
        return node
    node = Node("file")
    node.durable = path.read_bytes()
    node.data = bytearray(node.durable)
    return node


def _bytes_found(node: Node, rng: random.Random, mode: str) -> bytes:
    data = bytearray(node.durable)
    if mode != "anything":
        return bytes(data)
    for op in node.pending:
        chance = rng.random()
        if chance < 0.4:
            continue
        if op.kind == "truncate":
            _cut(data, op.at)
        else:
            kept = len(op.data) if chance > 0.6 else rng.randrange(len(op.data) + 1)
            _put(data, op.at, op.data[:kept])
    return bytes(data)


def _names_found(node: Node, rng: random.Random, mode: str) -> dict[str, Node]:
    names = dict(node.durable_names)
    for what, name, moved, other in node.changes:
        if mode == "nothing" or (mode == "anything" and rng.random() < 0.5):
            continue
        if what in ("remove", "move"):
            names.pop(name, None)
        if what != "remove":
            assert moved is not None
            names[other or name] = moved
    return names


def _store(node: Node, to: Path, rng: random.Random, mode: str) -> None:
    if node.kind == "link":
        to.symlink_to(node.target)
    elif node.kind == "file":
        to.write_bytes(_bytes_found(node, rng, mode))
    else:
        to.mkdir()
        for name, child in sorted(_names_found(node, rng, mode).items()):
            _store(child, to / name, rng, mode)


def same(disk: Disk, device: Path) -> list[str]:
    """The differences between the replayed disk and the real one: proof that the record is complete."""
    return list(_differences(disk.root, device, ""))


def _differences(node: Node, path: Path, name: str) -> Iterable[str]:
    if node.kind == "folder":
        there = {child.name for child in path.iterdir()} if path.is_dir() else set()
        for missing in sorted(there ^ set(node.names)):
            yield f"{name}/{missing}"
        yield from itertools.chain.from_iterable(
            _differences(child, path / key, f"{name}/{key}") for key, child in node.names.items() if key in there
        )
    elif node.kind == "link":
        if not path.is_symlink() or str(path.readlink()) != node.target:
            yield name
    elif not name.endswith("-shm") and path.read_bytes() != bytes(node.data):
        yield name
