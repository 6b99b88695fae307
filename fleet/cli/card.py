"""`fleet release card`, and the words for people that a release is published with."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import print_json, print_note
from fleet.cli.session import JsonFlag, client_of

if TYPE_CHECKING:
    from fleet.client import Client
    from fleet.protocol.manifest import Manifest

LONGEST = 10_000  # characters of a text
IntendedUse = Annotated[
    str,
    typer.Option("--intended-use", help="For the release's card: what it is for, and what not; TEXT, or @FILE."),
]
Limits = Annotated[str, typer.Option("--limits", help="For the card: where it is known to fail; TEXT, or @FILE.")]


def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    number: Annotated[int, typer.Argument(help="Number of the release.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write it into this file.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show a release's model card as Markdown: intended use, data, metrics, verdict, limits, lineage.

    What nobody has said or measured is called unknown.

    Example: fleet release card digits 2 --out digits-2.md
    """
    found = client_of(context).release_card(model, number)
    if out is not None:
        out.write_text(found.markdown, encoding="utf-8")
        print_note(f"wrote {out}")
    if json:
        print_json(found)
    elif out is None:
        sys.stdout.write(found.markdown)


def words_of(intended_use: str, limits: str) -> dict[str, str]:
    """Return the given words by their field in the release's detail; `@FILE` is read, an empty text is left out."""
    said = {"intended_use": _read(intended_use, "--intended-use"), "limits": _read(limits, "--limits")}
    return {name: text for name, text in said.items() if text}


def put_words(client: Client, manifest: Manifest, files: Mapping[str, Path], words: Mapping[str, str]) -> bytes:
    """Upload the release's detail with these words in it; returns the manifest that names it.

    Args:
        client: of the hub.
        manifest: as the compiler wrote it.
        files: its blobs by hash.
        words: the detail's fields that are said anew.
    """
    from msgspec.structs import replace

    from fleet.protocol.blob import Blob
    from fleet.protocol.manifest import encode_manifest
    from fleet.protocol.manifest_detail import decode_detail, detail_of, encode_detail, without_detail

    known = manifest.detail
    detail = decode_detail(files[known.sha256].read_bytes()) if isinstance(known, Blob) else detail_of(manifest)
    data = encode_detail(replace(detail, **words))
    blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / blob.sha256
        file.write_bytes(data)
        client.put_blob(blob.sha256, file)
    return encode_manifest(without_detail(manifest, blob))


def _read(text: str, option: str) -> str:
    """A text, or what stands in the file that `@FILE` names; a usage error for one that is too long or unreadable."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{option}: {text[1:]} cannot be read: {error}") from None
    if len(text) > LONGEST:
        raise typer.BadParameter(f"{option} has {len(text):,} characters, at most {LONGEST:,} are taken")
    return text.strip()
