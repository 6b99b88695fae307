"""The release directory: manifest, `blobs/<sha256>`, `deltas/<to>/<from>` and the reports, written all or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from fleet.protocol.manifest import Manifest, encode_manifest
from model_compiler.errors import SourceError
from model_compiler.inputs.release_folder import blob_of

RELEASE_FILES = {"manifest.json", "blobs", "deltas", "report.json", "report.html"}


def check_replaceable(out: Path) -> None:
    """Raise SourceError unless `out` is free, empty, or an earlier release: nothing else is ever deleted."""
    if not (out.exists() or out.is_symlink()):
        return
    release = out.is_dir() and not out.is_symlink() and {f.name for f in out.iterdir()} <= RELEASE_FILES
    if not release:
        raise SourceError(
            f"{out}: exists and is not a release directory", subject=str(out), hint="name a new folder with --out"
        )


def write_release(
    out: Path,
    manifest: Manifest,
    blobs: Iterable[bytes],
    reports: Mapping[str, bytes],
    patches: Mapping[tuple[str, str], bytes] | None = None,
) -> None:
    """Write a release directory beside `out`, then rename it into place; an older release is replaced.

    Args:
        out: the directory.
        manifest: with which it begins.
        blobs: those that the manifest lists.
        reports: by the file's name, see `RELEASE_FILES`.
        patches: by (to, from), both hashes of blobs; they lie at `deltas/<to>/<from>`.

    Raises:
        SourceError: `out` holds something that is not a release, or cannot be written; it is left as it is.
    """
    check_replaceable(out)
    try:
        _write(out, manifest, blobs, reports, patches or {})
    except OSError as error:
        raise SourceError(
            f"{out}: cannot be written: {error.strerror or error}",
            subject=str(out),
            hint="free space, or name another folder with --out",
        ) from error


def _write(
    out: Path,
    manifest: Manifest,
    blobs: Iterable[bytes],
    reports: Mapping[str, bytes],
    patches: Mapping[tuple[str, str], bytes],
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (draft / "blobs").mkdir()
        for data in blobs:
            (draft / "blobs" / blob_of(data).sha256).write_bytes(data)
        for (new, old), patch in patches.items():
            (draft / "deltas" / new).mkdir(parents=True, exist_ok=True)
            (draft / "deltas" / new / old).write_bytes(patch)
        (draft / "manifest.json").write_bytes(encode_manifest(manifest))
        for name, report in reports.items():
            (draft / name).write_bytes(report)
        draft.chmod(0o755)
        _swap(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, out: Path) -> None:
    """Put `draft` in the place of `out`. At every moment a whole release is at `out` or beside it, as
    `.NAME.old-…`: a directory cannot be replaced in one step, so the old one is renamed aside, not removed."""
    if not out.exists():
        draft.replace(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    old = aside / "release"
    out.replace(old)
    try:
        draft.replace(out)
    except OSError:
        old.replace(out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)
