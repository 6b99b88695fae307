"""`fleet release`: publish, look, forbid, carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from fleet.cli import card
from fleet.cli.output import Column, local_time, print_document, print_items, print_json
from fleet.cli.output import print_note as say
from fleet.cli.session import JsonFlag, ModelOption, Session, client_of, session_of
from fleet.errors import FailedError, NotFoundError

if TYPE_CHECKING:
    from fleet.api.releases import ReleaseInfo
    from fleet.protocol.manifest import Manifest

app = typer.Typer(name="release", help="Releases: signed, numbered versions of a model.", no_args_is_help=True)
COLUMNS = [
    ("model", "model"),
    ("release", "number"),
    ("status", "status"),
    ("note", "note"),
    ("published", "published_at"),
    ("by", "created_by"),
]
MEASURED = [
    ("hardware", "hardware"),
    ("variant", "variant"),
    ("runtime", "runtime"),
    ("devices", "devices"),
    ("p50 µs", "p50_us"),
    ("p95 µs", "p95_us"),
    ("worst p95", "worst_p95_us"),
    ("load µs", "load_us"),
    ("memory bytes", "memory_bytes"),
]
BUNDLED = [
    ("folder", "folder"),
    ("channel", "channel"),
    ("version", "channel_version"),
    ("releases", "releases"),
    ("files", "files"),
    ("bytes", "bytes"),
    ("expires", "valid_until"),
]
ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]
NumberArgument = Annotated[int, typer.Argument(help="Number of the release.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="Your own release key (PEM), when the hub does not hold one.")
]


@app.command("publish")
def publish(
    context: typer.Context,
    release_dir: Annotated[Path, typer.Argument(help="What `model-compiler compile --out` wrote.")],
    model: ModelOption,
    note: Annotated[str, typer.Option("--note", help="What is new.")] = "",
    end_monitoring: Annotated[
        bool, typer.Option("--end-monitoring", help="It has no drift sketch on purpose, where the model had one.")
    ] = False,
    key: KeyOption = None,
    intended_use: card.IntendedUse = "",
    limits: card.Limits = "",
    json: JsonFlag = False,
) -> None:
    """Upload the blobs that the hub lacks and the patches, then publish the manifest; with --key, sign it too.

    The hub refuses inputs, outputs, classes or a sketch encoder that are not the model's. What --intended-use and
    --limits say stands in the release's card (fleet release card), and is signed with the release.

    Example: fleet release publish out/digits --model digits
    """
    client = client_of(context)
    data, manifest = _read_manifest(release_dir)
    words = card.words_of(intended_use, limits)
    files = {blob.sha256: _blob_file(release_dir, blob.sha256, blob.size) for blob in manifest.blobs()}
    for sha256, file in files.items():
        if not client.has_blob(sha256):
            say(f"uploading {sha256[:12]}… ({file.stat().st_size} bytes)")
            client.put_blob(sha256, file)
    for file in sorted((release_dir / "deltas").glob("*/*")):
        if file.parent.name in files:
            say(f"uploading the patch {file.name[:12]}… → {file.parent.name[:12]}… ({file.stat().st_size} bytes)")
            client.put_delta(file.parent.name, file.name, file)
    if words:
        data = card.put_words(client, manifest, files, words)
    published = client.publish_release(model, data, note=note, end_monitoring=end_monitoring)
    if published.status == "awaiting-signature" and key is not None:
        published = sign_release(session_of(context), model, published.number, key)
    print_document(published, COLUMNS[:3], json=json)
    if manifest.sketch is None:
        _say_unwatched()
    if published.status == "awaiting-signature":
        say(f"it waits for the release key: fleet release sign {model} {published.number} --key K")


@app.command("sign")
def sign(
    context: typer.Context,
    model: ModelArgument,
    number: NumberArgument,
    key: Annotated[Path, typer.Option("--key", help="Your release key (PEM).")],
    json: JsonFlag = False,
) -> None:
    """Sign a release that is awaiting its signature.

    Example: fleet release sign digits 4 --key release.pem
    """
    print_document(sign_release(session_of(context), model, number, key), COLUMNS[:3], json=json)


@app.command("delete")
def delete(context: typer.Context, model: ModelArgument, number: NumberArgument, json: JsonFlag = False) -> None:
    """Delete a release that no channel, pin or rollout names; one that devices must not have is withdrawn instead.

    Example: fleet release delete digits 4
    """
    print_document(client_of(context).delete_release(model, number), COLUMNS[:3], json=json)
    say("its number is not used again; its blobs are removed after a day")


@app.command("list")
def list_(context: typer.Context, model: ModelArgument, json: JsonFlag = False) -> None:
    """List a model's releases.

    Example: fleet release list digits
    """
    print_items(client_of(context).releases(model), COLUMNS, json=json, empty=f"no release of {model}")


@app.command("show")
def show(context: typer.Context, model: ModelArgument, number: NumberArgument, json: JsonFlag = False) -> None:
    """Show a release: its variants, the compiler's figures, and what devices measured per hardware class.

    Example: fleet release show digits 2
    """
    document = client_of(context).release(model, number)
    if json:
        print_json(document)
        return
    print_document(document, COLUMNS, json=False)
    if document.manifest is not None:
        columns: list[Column] = [
            ("variant", "name"),
            ("runs", "placement"),
            ("metric", "verdict.metric"),
            ("value", "verdict.value"),
            ("agreement", "verdict.agreement"),
            ("bytes", "verdict.size_bytes"),
            ("p50 µs", "verdict.latency_us_p50"),
            ("defers below", "deferral.threshold"),
        ]
        print_items(document.manifest.variants, columns, json=False, empty="no variants")
    print_items(document.measured, MEASURED, json=False, empty="no device has measured it yet")


app.command("card")(card.show)


@app.command("withdraw")
def withdraw(
    context: typer.Context,
    model: ModelArgument,
    number: NumberArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the audit log.")],
    json: JsonFlag = False,
) -> None:
    """Forbid a release: no device installs it any more.

    Example: fleet release withdraw digits 3 --reason "labels swapped"
    """
    print_document(client_of(context).withdraw_release(model, number, reason), COLUMNS[:3], json=json)


@app.command("download")
def download(
    context: typer.Context,
    model: ModelArgument,
    number: NumberArgument,
    out: Annotated[Path, typer.Option("--out", help="A folder that does not exist yet, or an empty one.")],
    json: JsonFlag = False,
) -> None:
    """Write a release into a folder: what `model-compiler compile --extends` and `--delta-from` take.

    Example: fleet release download digits 3 --out current
    """
    from fleet.release_folder import write_release

    client = client_of(context)
    document = client.release(model, number)
    if document.manifest is None:
        raise NotFoundError(f"release {number} of {model} has no manifest yet", subject=f"{model}/{number}")
    write_release(document.manifest, client.static_piece, out)
    print_document(document, COLUMNS[:3], json=json)


@app.command("bundle")
def bundle(
    context: typer.Context,
    channel: Annotated[str, typer.Option("--channel", help="The channel that the devices follow.")],
    out: Annotated[Path, typer.Option("--out", help="A folder that does not exist yet, or an empty one.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this model; may be repeated.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a channel's signed state, releases and files into a folder for devices without a network.

    Example: fleet release bundle --channel stable --out /media/usb/bundle
    """
    from fleet.client.bundle import Bundler

    session = session_of(context)
    client = session.client
    made = Bundler(client.static, client.static_piece, out).write(channel, tuple(model or ()))
    print_document(to_builtins(made), BUNDLED, json=json)
    if made.valid_until <= session.now():
        say(f"warning: the hub's metadata ended on {local_time(made.valid_until)}, so no device will install from this")
        say("try: cloud-hub serve DIR, which signs daily, or cloud-hub keys renew DIR; then bundle again")
        return
    say(f"on the device, before it expires: edge-agent install {out} --dir AGENTDIR")


def sign_release(session: Session, model: str, number: int, key: Path) -> ReleaseInfo:
    """Sign the hub's payload with the key in `key` and hand the signature in."""
    from fleet.client.signing import load_signer

    client, passphrase = session.client, session.environment.get("EDGELOOP_PASSPHRASE")
    signer = load_signer(key, passphrase.encode() if passphrase else None)
    payload, version = client.signing_payload(model, number)
    return client.send_signature(model, number, key_id=signer.key_id, signature=signer.sign(payload), version=version)


def _say_unwatched() -> None:
    from fleet.protocol.interface import UNWATCHED  # brings numpy, which no help needs

    say(UNWATCHED)


def _read_manifest(release_dir: Path) -> tuple[bytes, Manifest]:
    from fleet.protocol.manifest import decode_manifest

    path = release_dir / "manifest.json"
    if not path.is_file():
        raise NotFoundError(
            f"no manifest in {release_dir}", subject=str(path), hint="model-compiler compile … --out RELEASE_DIR"
        )
    data = path.read_bytes()
    return data, decode_manifest(data)


def _blob_file(release_dir: Path, sha256: str, size: int) -> Path:
    file = release_dir / "blobs" / sha256
    if not file.is_file() or file.stat().st_size != size:
        raise FailedError(
            f"blob {sha256} is missing from {release_dir} or has the wrong size",
            subject=str(file),
            hint="compile the release again",
        )
    return file
