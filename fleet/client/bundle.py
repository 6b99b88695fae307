"""A channel's signed state and files as a plain folder, for devices that no network reaches.

The folder holds what the hub serves, under the same names: `metadata/`, `targets/` (hash-prefixed) and `blobs/`;
beside them `bundle.json` says what it was made of (`fleet.protocol.bundle`).
Nothing in it is trusted by a device: it runs the checks that it runs against a hub. What is wrong is still found
here, where it can be put right: every target and blob is hashed while it is written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from fleet.durable import sync
from fleet.errors import ConflictError, FailedError, NotFoundError
from fleet.protocol import bundle
from fleet.protocol.channel import Channel, decode_channel
from fleet.protocol.codec import encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.tuf_file import TufRole, TufTarget, decode_tuf_file

PIECE = 8 << 20  # bytes of a blob per request, so that a large one never lies in memory whole
MAX_ROOTS = 10_000
LAST = "timestamp.json"  # by which a device knows a bundle
OF_A_MEDIUM = ("lost+found", "System Volume Information")  # what an empty one may hold
_ROLE = re.compile(r"[a-z0-9-]{1,63}\.json")
_TARGET = re.compile(r"(models/[a-z0-9-]{1,63}|channels|hub)/[a-z0-9-]{1,63}\.json")

Get = Callable[[str], bytes | None]  # a static path; None when there is no such file
GetPiece = Callable[[str, int, int], bytes]  # path, first byte, count


class Bundled(Struct, frozen=True, kw_only=True):
    """The content of a bundle: releases by model, bytes in all, and until when a device takes it (Unix seconds)."""

    folder: str
    channel: str
    channel_version: int
    releases: dict[str, tuple[int, ...]]
    files: int
    bytes: int
    valid_until: float


class Bundler:
    """Writes one bundle. `get` and `piece` are the hub's static files."""

    def __init__(self, get: Get, piece: GetPiece, out: Path) -> None:
        self._get, self._piece, self._out = get, piece, out.resolve()
        self._files = self._bytes = 0
        self._targets: dict[str, TufTarget] = {}

    def write(self, channel: str, models: tuple[str, ...] = ()) -> Bundled:
        """Fetch `channel` with its models (or those of `models`) into a new folder, or one that is there and empty.

        Raises:
            NotFoundError: no such channel or model on it. FailedError: the hub's files do not fit together.
            ConflictError: the folder exists and holds something. OSError: the disk or medium refuses.
        """
        there = self._out.exists()
        if there:
            _check_empty(self._out)
        # A folder that is there may be where a medium is mounted: only what lies in it is on the same file system.
        draft = (self._out if there else self._out.parent) / f".{self._out.name}.{os.getpid()}.part"
        draft.mkdir(parents=True)
        try:
            bundled = self._fill(draft, channel, models)
            for folder, _, _ in os.walk(draft):
                _sync(Path(folder))
            if there:
                _move_in(draft, self._out)
            else:
                draft.replace(self._out)
                _sync(self._out.parent)
        except OSError as error:
            if error.filename is None:  # a medium that is full
                error.filename = str(self._out)
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return bundled

    def _fill(self, draft: Path, name: str, models: tuple[str, ...]) -> Bundled:
        expires = self._metadata(draft)
        data = self._target(draft, f"channels/{name}.json")
        if data is None:
            raise NotFoundError(f"the hub has signed no channel {name!r}", subject=name, hint="fleet channel list")
        channel = decode_channel(data)
        missing = set(models) - set(channel.models)
        if missing:
            text = f"channel {name!r} names no model {', '.join(sorted(missing))}"
            raise NotFoundError(text, subject=name, hint=f"fleet channel show {name}")
        for path in sorted(self._targets):
            if path.startswith("hub/"):
                self._target(draft, path)
        releases = {model: self._model(draft, channel, model) for model in models or tuple(sorted(channel.models))}
        for model in sorted(set(channel.models) - set(releases)):
            self._floor(draft, model)  # with it a device follows the channel back to a release that it holds
        self._put(draft / bundle.NAME, encode_json(bundle.Label(channel=name, models=tuple(releases))))
        return Bundled(
            folder=str(self._out),
            channel=name,
            channel_version=channel.version,
            releases=releases,
            files=self._files,
            bytes=self._bytes,
            valid_until=expires,
        )

    def _metadata(self, draft: Path) -> float:
        """Every root, and one consistent set of the other roles: what the timestamp names never changes."""
        ends = []
        for version in range(1, MAX_ROOTS):
            root = self._get(f"/tuf/metadata/{version}.root.json")
            if root is None:
                break
            self._put(draft / "metadata" / f"{version}.root.json", root)
            ends = [_signed(root, f"{version}.root.json").expires]  # only the newest one's counts
        timestamp = self._role(draft, "timestamp.json")
        named = timestamp.meta.get("snapshot.json")
        if named is None:
            raise FailedError("the timestamp names no snapshot", subject="timestamp", hint=_BROKEN)
        snapshot = self._role(draft, f"{named.version}.snapshot.json")
        ends += [timestamp.expires, snapshot.expires]
        for role, about in sorted(snapshot.meta.items()):
            if _ROLE.fullmatch(role) is None:
                raise FailedError(f"the snapshot names a role {role!r}", subject="snapshot", hint=_BROKEN)
            signed = self._role(draft, f"{about.version}.{role}")
            ends.append(signed.expires)
            self._targets.update(signed.targets)
        return min(end.timestamp() for end in ends)

    def _role(self, draft: Path, name: str) -> TufRole:
        data = self._needed(f"/tuf/metadata/{name}")
        self._put(draft / "metadata" / name, data)
        return _signed(data, name)

    def _target(self, draft: Path, path: str) -> bytes | None:
        about = self._targets.get(path)
        if about is None:
            return None
        if _TARGET.fullmatch(path) is None:
            raise FailedError(f"the metadata names a target {path!r}", subject=path, hint=_BROKEN)
        digest = about.hashes.get("sha256", "")
        folder, _, name = path.rpartition("/")
        data = self._needed(f"/tuf/targets/{folder}/{digest}.{name}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise FailedError(f"target {path} does not have its signed hash", subject=path, hint=_BROKEN)
        self._put(draft / "targets" / folder / f"{digest}.{name}", data)
        return data

    def _model(self, draft: Path, channel: Channel, model: str) -> tuple[int, ...]:
        self._floor(draft, model)
        wanted = tuple(sorted(set(_releases(channel, model))))
        for number in wanted:
            data = self._target(draft, f"models/{model}/{number}.json")
            if data is None:
                text = f"the hub has not signed release {number} of {model!r}"
                raise NotFoundError(text, subject=model, hint=f"fleet release show {model} {number}")
            try:
                manifest = decode_manifest(data)
            except ProtocolError as error:
                raise FailedError(f"{model} release {number}: {error}", subject=model, hint=_BROKEN) from error
            for blob in manifest.blobs(manifest.placed("edge")):
                self._blob(draft / "blobs", blob.sha256, blob.size)
        return wanted

    def _floor(self, draft: Path, model: str) -> None:
        self._target(draft, f"models/{model}/floor.json")

    def _blob(self, folder: Path, sha256: str, size: int) -> None:
        path = folder / sha256
        if path.exists():
            return
        folder.mkdir(exist_ok=True)
        digest, written = hashlib.sha256(), 0
        with path.open("wb") as file:
            while written < size:
                piece = self._piece(f"/blobs/{sha256}", written, min(PIECE, size - written))
                if not piece or written + len(piece) > size:
                    raise FailedError(f"blob {sha256} does not have {size} bytes", subject=sha256, hint=_BROKEN)
                digest.update(piece)
                written += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise FailedError(f"blob {sha256} came with another hash", subject=sha256, hint=_BROKEN)
        self._count(size)

    def _needed(self, path: str) -> bytes:
        data = self._get(path)
        if data is None:
            raise FailedError(f"the hub lacks {path}", subject=path, hint=_BROKEN)
        return data

    def _put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._count(len(data))

    def _count(self, size: int) -> None:
        self._files += 1
        self._bytes += size


def _releases(channel: Channel, model: str) -> Iterator[int]:
    """Every release that a device of the channel may be told to run."""
    entry = channel.models[model]
    yield entry.release
    yield from (rule.release for rule in entry.rules)
    if entry.rollout is not None:
        yield from (entry.rollout.release, entry.rollout.from_release)


def _check_empty(folder: Path) -> None:
    found = [e.name for e in folder.iterdir() if e.name not in OF_A_MEDIUM] if folder.is_dir() else [folder.name]
    if found:
        raise ConflictError(
            f"{folder} is not an empty folder: there is {min(found)}",
            subject=str(folder),
            hint="give a folder that does not exist, or empty this one",
        )


def _move_in(draft: Path, out: Path) -> None:
    """Move what is in `draft` to the folder around it. Without `timestamp.json`, which comes last, it is no bundle."""
    moved = []
    try:
        (draft / "metadata" / LAST).replace(draft / LAST)
        for entry in sorted(set(draft.iterdir()) - {draft / LAST}):
            moved.append(out / entry.name)
            entry.replace(out / entry.name)
        _sync(out)
        (draft / LAST).replace(out / "metadata" / LAST)
        _sync(out / "metadata")
    except BaseException:
        for path in moved:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # what went wrong first is what is said
                path.unlink()
        raise


def _sync(folder: Path) -> None:
    """Make names in `folder` durable: a stick is pulled when the command has ended."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that promises nothing about folders
            raise


def _signed(data: bytes, name: str) -> TufRole:
    try:
        return decode_tuf_file(data, subject=name).signed
    except ProtocolError as error:
        raise FailedError(f"metadata cannot be read: {error}", subject=name, hint=_BROKEN) from error


_BROKEN = "try again; if it stays, the hub's store or the mirror between is damaged: bundle from the hub itself"
