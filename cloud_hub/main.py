"""The `cloud-hub` command: the composition root. Everything heavy is imported inside the commands."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloud_hub.errors import ForbiddenError, HubError, InvalidError

app = typer.Typer(help="The hub of an Edgeloop fleet.", no_args_is_help=True, add_completion=False)
keys_app = typer.Typer(help="Key ceremonies; they need the offline keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The hub's directory.")]
OfflineKeys = Annotated[Path, typer.Option(help="Directory of the offline keys, outside DIR.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="File with the offline keys' passphrase (or set EDGELOOP_PASSPHRASE).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(epilog="Example: cloud-hub init hub --offline-keys /media/usb/keys")
def init(
    directory: Dir,
    offline_keys: OfflineKeys,
    database: Annotated[str, typer.Option(help="postgresql+psycopg://… (default: SQLite in DIR)")] = "",
    objects: Annotated[str, typer.Option(help="s3://bucket/prefix (default: DIR/objects)")] = "",
    hostname: Annotated[list[str] | None, typer.Option(help="Name or address in the certificate.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that `serve` listens on (8080).")] = None,
    release_key: Annotated[str, typer.Option(help="held (in DIR) or external (goes to the publisher).")] = "held",
    passphrase_file: PassphraseFile = None,
    token_file: Annotated[Path | None, typer.Option(help="Also write the admin token here (0600).")] = None,
    as_json: Json = False,
) -> None:
    """Make keys, database and configuration; prints the first admin token once."""
    from cloud_hub.bootstrap import initialise
    from cloud_hub.config import HubConfig

    chosen: dict[str, Any] = {
        "database": database,
        "objects": objects,
        "hostnames": tuple(hostname or ()),
        "port": port,
        "release_key": release_key,
    }
    config = HubConfig.build(directory, {}, **{key: value for key, value in chosen.items() if value})
    made = initialise(config, offline_keys, _passphrase(passphrase_file, ask=True))
    if token_file is not None:
        _write_token(token_file, made.admin_token)
    if as_json:
        _print_json({"directory": str(config.directory), "url": config.url, "admin_token": made.admin_token})
        return
    typer.echo(f"hub made in {config.directory}; offline keys in {offline_keys.resolve()} (take them away)")
    typer.echo(f"first admin token, shown this once:\n\n    {made.admin_token}\n")
    typer.echo(f"next: cloud-hub serve {directory}")


@app.command(epilog="Example: cloud-hub serve hub --host 0.0.0.0 --port 8443")
def serve(
    directory: Dir,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    tls: Annotated[bool | None, typer.Option("--tls/--no-tls", help="Off is for loopback only.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the hub until SIGTERM."""
    from cloud_hub.config import HubConfig

    given = {"host": host, "port": port, "tls": tls}
    config = HubConfig.load(directory, **{key: value for key, value in given.items() if value is not None})
    _log(log_level)
    check_safe(config)
    run_server(config, log_level)


@app.command(epilog="Example: cloud-hub worker hub")
def worker(
    directory: Dir,
    once: Annotated[bool, typer.Option(help="End when no job is waiting.")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the hub's jobs (retrain: train, gate, compile, publish, roll out) until SIGTERM."""
    from cloud_hub.bootstrap import open_hub
    from cloud_hub.config import HubConfig
    from cloud_hub.jobs.worker import run_worker

    _log(log_level)
    run_worker(open_hub(HubConfig.load(directory)), once=once)


@keys_app.command(epilog="Example: cloud-hub keys renew hub --offline-keys /media/usb/keys")
def renew(
    directory: Dir, offline_keys: OfflineKeys, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Sign root and targets for another year."""
    from cloud_hub.trust import ceremony

    publisher, _ = _publisher(directory)
    roles = ceremony.renew(publisher.transactions, offline_keys, _passphrase(passphrase_file))
    _tell({"renewed": list(roles)}, f"signed anew: {', '.join(roles)}", as_json)


@keys_app.command(epilog="Example: cloud-hub keys rotate hub rollout --offline-keys /media/usb/keys")
def rotate(
    directory: Dir,
    key: Annotated[str, typer.Argument(help="root, targets, release, rollout, snapshot, timestamp or command.")],
    offline_keys: OfflineKeys,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Replace one key; restart the hub and its workers afterwards."""
    from cloud_hub.trust import ceremony

    publisher, config = _publisher(directory)
    key_id = ceremony.rotate(publisher.transactions, key, config.keys_dir, offline_keys, _passphrase(passphrase_file))
    text = f"key {key} is now {key_id}; restart `cloud-hub serve` and every worker"
    _tell({"key": key, "key_id": key_id}, text, as_json)


def check_safe(config: Any) -> None:
    """Raise ForbiddenError when offline keys lie in the hub's directory, or the network is not loopback without TLS."""
    from cloud_hub.bootstrap import offline_keys_inside
    from cloud_hub.config import is_loopback

    found = offline_keys_inside(config.directory)
    if found is not None:
        raise ForbiddenError(
            f"an offline key lies in the hub's directory: {found}", subject=str(found), hint="move it to another disk"
        )
    if not config.tls and not is_loopback(config.host):
        raise ForbiddenError(
            f"{config.host} is not loopback, and TLS is off",
            subject=config.host,
            hint="drop --no-tls, or use 127.0.0.1",
        )
    broker = config.broker.resolved()
    if broker.kind != "external" and not broker.tls and not is_loopback(broker.host):
        raise ForbiddenError(
            f"the broker's address {broker.host} is not loopback, and its TLS is off",
            subject=broker.host,
            hint="install Mosquitto (apt-get install mosquitto), or set broker.tls",
        )


def run_server(config: Any, log_level: str) -> None:
    """Migrate, open the hub and serve until SIGTERM or SIGINT."""
    import uvicorn

    from cloud_hub.app import all_services, create_app
    from cloud_hub.bootstrap import open_hub
    from cloud_hub.identity.own import renew_own
    from cloud_hub.store.engine import make_engine
    from cloud_hub.store.migrate import upgrade

    for name in renew_own(config, time.time()):
        logging.getLogger(__name__).info("renewed the hub's own certificate %s", name)
    engine = make_engine(config.database_url)
    upgrade(engine)
    engine.dispose()
    hub = open_hub(config)
    certificates: dict[str, Any] = {}
    if config.tls:
        certificates = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)}
    typer.echo(f"hub at {config.url} (dashboard: {config.url}/)")
    # uvicorn stops gracefully and then raises the signal again, which would end us with its number, not 0
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    uvicorn.run(
        create_app(hub, all_services(hub)),
        host=config.host,
        port=config.port,
        log_level=log_level,
        access_log=log_level == "debug",
        timeout_graceful_shutdown=10,
        server_header=False,
        **certificates,
    )
    hub.engine.dispose()


def _publisher(directory: Path) -> tuple[Any, Any]:
    from cloud_hub.bootstrap import open_publisher
    from cloud_hub.config import HubConfig

    config = HubConfig.load(directory)
    return open_publisher(config), config


def _passphrase(file: Path | None, *, ask: bool = False) -> bytes:
    from cloud_hub.config import read_passphrase

    found = read_passphrase(file)
    if found is None and sys.stdin.isatty():
        found = str(typer.prompt("passphrase of the offline keys", hide_input=True, confirmation_prompt=ask)).encode()
    if not found:
        raise InvalidError(
            "the offline keys need a passphrase",
            subject="passphrase",
            hint="give --passphrase-file or EDGELOOP_PASSPHRASE",
        )
    return found


def _write_token(path: Path, token: str) -> None:
    from cloud_hub.trust.keys import write_private

    write_private(path, token.encode() + b"\n", replace=True)


def _log(level: Literal["debug", "info", "warning", "error"] | str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _tell(document: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _print_json(document)
    else:
        typer.echo(text)


def _print_json(document: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(document))


def _add_training() -> None:
    """`cloud-hub train` has its own module; its options are read only when it is asked for."""

    @app.command(
        "train",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
        help="Run a recipe: cloud-hub train RECIPE --out DIR [--hub DIR --snapshot ID]. See: cloud-hub train --help",
    )
    def train(context: typer.Context) -> None:
        from cloud_hub.training.cli import main as train_main

        train_main(context.args)


_add_training()


def main() -> None:
    """Entry point: errors become `error: …`, `try: …` and an exit code."""
    from fleet.protocol.errors import ProtocolError

    try:
        app()
    except (HubError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        if error.hint:
            typer.echo(f"try: {error.hint}", err=True)
        sys.exit(error.exit_code if isinstance(error, HubError) else 1)


if __name__ == "__main__":
    main()
