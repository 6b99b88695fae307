"""Building patches between blobs: the smallest of three ways; see `fleet.protocol.delta`."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fleet.protocol import delta
from fleet.protocol.delta import Header, Method
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest
from model_compiler.errors import CompilerError, SourceError
from model_compiler.inputs.former_release import pairs
from model_compiler.inputs.release_folder import blob_of, read_release

LEVEL = 19
BSDIFF_LIMIT = 64 << 20  # bytes; its suffix array takes 17 times the old file


@dataclass(frozen=True)
class Built:
    """A patch, and what every method would have taken, in bytes."""

    patch: bytes
    method: Method
    sizes: dict[Method, int]


def build(old: bytes, new: bytes) -> Built:
    """The smallest patch that turns `old` into `new`; its methods compare as in the module `fleet.protocol.delta`."""
    found: dict[Method, bytes] = {"whole": _patch("whole", old, new, extra=new)}
    if len(old) == len(new):
        change = np.frombuffer(new, np.uint8) - np.frombuffer(old, np.uint8)
        found["subtract"] = _patch("subtract", old, new, diff=change.tobytes())
    if 0 < len(old) <= BSDIFF_LIMIT and len(new) <= BSDIFF_LIMIT and (core := _bsdiff()) is not None:
        control, change_bytes, fresh = core.diff(old, new)
        found["bsdiff"] = _patch("bsdiff", old, new, control=_signed(control), diff=change_bytes, extra=fresh)
    method = min(found, key=lambda name: len(found[name]))
    return Built(found[method], method, {name: len(patch) for name, patch in found.items()})


def apply(old: bytes, patch: bytes) -> bytes:
    """Apply `patch` to `old`, and return the exact bytes that it was built for.

    Raises:
        CompilerError: damaged, for another file, or with another outcome than it says.
    """
    try:
        header = delta.decode_header(patch, total=len(patch))
        if hashlib.sha256(old).hexdigest() != header.old:
            raise CompilerError(f"the delta is for another file: {header.old[:12]}", subject="delta")
        ends = np.cumsum([delta.HEADER_SIZE, *header.sections])
        control, diff, extra = (_reader(patch[start:end]) for start, end in itertools.pairwise(ends))
        made = b"".join(delta.apply(header, lambda at, count: old[at : at + count], control, diff, extra))
    except (ProtocolError, EOFError, _zstd().ZstdError) as error:
        raise CompilerError(f"the delta cannot be applied: {error}", subject="delta") from error
    if hashlib.sha256(made).hexdigest() != header.new:
        raise CompilerError("the delta makes other bytes than it says", subject="delta")
    return made


def patches(manifest: Manifest, blobs: Sequence[bytes], earlier: Sequence[Path]) -> dict[tuple[str, str], bytes]:
    """Make a patch for every file that a device of an earlier release replaces (`former_release.pairs`), by (to, from).

    Only patches that are smaller than the file are kept.

    Raises:
        SourceError: an earlier release directory is damaged.
    """
    mine = {blob_of(data).sha256: data for data in blobs}
    found = {}
    for folder in earlier:
        for old, new in pairs(read_release(folder), manifest):
            data = mine[new.sha256]
            patch = build((folder / "blobs" / old.sha256).read_bytes(), data).patch
            if len(patch) < len(data):
                found[new.sha256, old.sha256] = patch
    return found


def model_of(path: Path, variant: str = "") -> bytes:
    """A file's bytes; of a release directory, those of a variant, by default the first for the edge.

    Raises:
        SourceError: it cannot be read, or has no such variant.
    """
    try:
        if not path.is_dir():
            return path.read_bytes()
        found = [v.blob for v in read_release(path).placed("edge") if v.name == (variant or v.name)]
        if not found:
            raise SourceError(f"{path}: has no edge variant {variant!r}", subject=str(path))
        return (path / "blobs" / found[0].sha256).read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", subject=str(path)) from error


def _patch(
    method: Method, old: bytes, new: bytes, *, control: bytes = b"", diff: bytes = b"", extra: bytes = b""
) -> bytes:
    sections = [_compressed(content) for content in (control, diff, extra)]
    header = Header(
        method=method,
        old=hashlib.sha256(old).hexdigest(),
        new=hashlib.sha256(new).hexdigest(),
        old_size=len(old),
        new_size=len(new),
        sections=(len(sections[0]), len(sections[1]), len(sections[2])),
    )
    return b"".join([delta.encode_header(header), *sections])


def _bsdiff() -> Any:
    """None on a hub that was installed without the compiler: its patches between manifests are packed files."""
    try:
        from bsdiff4 import core
    except ImportError:
        return None
    return core


def _signed(control: bytes) -> bytes:
    """bsdiff writes a number as its size with the sign in the highest bit; the format here is two's complement."""
    raw = np.frombuffer(control, "<u8")
    size = (raw & np.uint64(2**63 - 1)).astype("<i8")
    return np.where(raw >> np.uint64(63) == 1, -size, size).astype("<i8").tobytes()


def _compressed(content: bytes) -> bytes:
    zstd = _zstd()
    if not content:
        return b""
    kinds = zstd.CompressionParameter
    compressed: bytes = zstd.compress(
        content, options={kinds.compression_level: LEVEL, kinds.window_log: delta.WINDOW_LOG}
    )
    return compressed


def _reader(section: bytes) -> delta.Read:
    import io

    if not section:
        return lambda count: b""
    file = _zstd().ZstdFile(io.BytesIO(section))
    return lambda count: bytes(file.read(count))


def _zstd() -> Any:
    """Zstandard, of the standard library from Python 3.14 on."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # type: ignore[import-not-found]
    else:
        from backports import zstd
    return zstd
