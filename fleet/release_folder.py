"""A release of the hub as a folder, as the compiler writes them: what `model-compiler compile --extends` takes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fleet.errors import ConflictError, FailedError
from fleet.protocol.manifest import Manifest, encode_manifest

PIECE = 4 << 20  # bytes that one request brings
_AGAIN = "try again; if it stays so, ask whoever runs the hub"


def write_release(manifest: Manifest, piece: Callable[[str, int, int], bytes], out: Path) -> None:
    """Write a manifest and all its blobs, each checked against its hash; a folder is there as a whole or not at all.

    Args:
        piece: `count` bytes of a path from `start` on (`Client.static_piece`).
        out: a folder that does not exist yet, or an empty one.

    Raises:
        ConflictError: `out` holds something.
        FailedError: a blob is not what the manifest says.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConflictError(f"{out} is not empty", subject=str(out), hint="name a folder that does not exist yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (draft / "blobs").mkdir()
        (draft / "manifest.json").write_bytes(encode_manifest(manifest))
        for blob in manifest.blobs():
            _write_blob(draft / "blobs", blob.sha256, blob.size, piece)
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_blob(folder: Path, sha256: str, size: int, piece: Callable[[str, int, int], bytes]) -> None:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # it becomes a file's name
        raise FailedError(f"not a blob's hash: {sha256[:80]!r}", subject="manifest", hint=_AGAIN)
    digest, written = hashlib.sha256(), 0
    with (folder / sha256).open("wb") as file:
        while written < size:
            data = piece(f"/blobs/{sha256}", written, min(PIECE, size - written))
            if not data or written + len(data) > size:
                raise FailedError(f"blob {sha256} does not have {size} bytes", subject=sha256, hint=_AGAIN)
            digest.update(data)
            written += file.write(data)
    if digest.hexdigest() != sha256:
        raise FailedError(f"blob {sha256} came with another hash", subject=sha256, hint=_AGAIN)
