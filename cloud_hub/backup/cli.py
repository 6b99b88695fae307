"""The commands `cloud-hub backup` and `cloud-hub restore`. Everything heavy is imported inside them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_hub.errors import InvalidError, UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File with the passphrase of the backup's keys (or EDGELOOP_PASSPHRASE)."),
]
OUT_HELP = "A folder that is not there yet, outside the hub's directory."
KEYS_HELP = "Also the hub's keys, sealed with a passphrase; without them keep a copy of DIR/keys yourself."


def add_commands(app: typer.Typer) -> None:
    """Add both to `cloud-hub`."""
    app.command(epilog="Example: cloud-hub backup hub /backups/2026-11-30 --with-keys")(backup)
    app.command(epilog="Example: cloud-hub restore /backups/2026-11-30 hub")(restore)


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The hub's directory.")],
    out: Annotated[Path, typer.Argument(metavar="BACKUP", help=OUT_HELP)],
    with_keys: Annotated[bool, typer.Option("--with-keys", help=KEYS_HELP)] = False,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Copy a hub's database, objects and configuration as they are at one moment; the hub may run meanwhile."""
    from cloud_hub.backup.make import make_backup
    from cloud_hub.config import HubConfig

    config = HubConfig.load(directory)
    passphrase = _passphrase(passphrase_file, new=True) if with_keys else None
    made = make_backup(config, out, passphrase=passphrase, now=time.time(), say=_say)
    for line in _secrets(with_keys):
        typer.echo(line, err=True)
    for key in made.missing:
        typer.echo(f"warning: the hub's store does not have {key}, which its database names", err=True)
    _tell(_summary(made, out), f"backup of {len(made.objects)} objects, {made.size:,} bytes, in {out}", as_json)


def restore(
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder that `cloud-hub backup` made.")],
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where the hub is to lie.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read the backup and say whether it is whole.")] = False,
    database: Annotated[
        str | None, typer.Option(help="Another database than before: postgresql+psycopg://…, or '' for SQLite in DIR.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(help="Another store than before: s3://bucket/prefix, or '' for DIR/objects.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="A copy of the hub's DIR/keys, where the backup has none.")] = None,
    journal: Annotated[
        str | None, typer.Option(help="A newer copy of the hub's journal: its folder, or an s3:// URL.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="What the target holds now may be lost.")] = False,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make a hub from a backup; nothing is written before the whole backup was read and is found good."""
    from cloud_hub.backup.checking import check_backup
    from cloud_hub.backup.restore import Source
    from cloud_hub.backup.restore import restore as run

    if check:
        _tell(_summary(check_backup(folder), folder), f"the backup in {folder} is whole", as_json)
        return
    if directory is None:
        raise UsageError("where is the hub to lie?", subject="DIR", hint=f"cloud-hub restore {folder} DIR")
    chosen = {key: value for key, value in (("database", database), ("objects", objects)) if value is not None}
    done = run(
        Source(folder, lambda: _passphrase(passphrase_file), keys, journal),
        directory,
        chosen=chosen,
        replace=replace,
        now=time.time(),
        say=_say,
    )
    for line in done.problems:
        typer.echo(f"warning: {line}", err=True)
    document = {**_summary(done.manifest, folder), "replayed": done.entries, "problems": list(done.problems)}
    _tell(document, f"hub restored in {directory}\nnext: cloud-hub serve {directory}", as_json)


def _secrets(with_keys: bool) -> list[str]:
    """Return the sentences that the keeper of the backup should read."""
    keys = (
        "the hub's keys, sealed with the passphrase: whoever has both can sign for this fleet"
        if with_keys
        else "no keys: keep a copy of DIR/keys, or nobody can restore a hub that devices know"
    )
    return [
        f"in the backup: {keys}",
        "in the backup, readable: samples of the fleet, logins of devices at an embedded broker, hashes of tokens, and "
        "hub.toml with any password in it. Files are 0600; keep them so",
    ]


def _summary(made: Any, folder: Path) -> dict[str, Any]:
    return {
        "backup": str(folder),
        "made_at": made.made_at,
        "version": made.version,
        "revision": made.revision,
        "objects": len(made.objects),
        "bytes": made.size,
        "keys": made.has_keys,
        "missing": list(made.missing),
    }


def _passphrase(file: Path | None, *, new: bool = False) -> bytes:
    from cloud_hub.config import read_passphrase

    found = read_passphrase(file)
    if found is None and sys.stdin.isatty():
        found = str(typer.prompt("passphrase of the keys", hide_input=True, confirmation_prompt=new)).encode()
    if not found:
        hint = "give --passphrase-file or EDGELOOP_PASSPHRASE"
        raise InvalidError("the keys in a backup need a passphrase", subject="passphrase", hint=hint)
    return found


def _say(text: str) -> None:
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def _tell(document: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(document) if as_json else text)
