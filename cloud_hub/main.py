"""The `cloud-hub` command: the composition root. Everything heavy is imported inside the commands."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_hub.backtest.cli import app as drift_app
from cloud_hub.backup.cli import add_commands
from cloud_hub.errors import HubError, InvalidError
from fleet.console.exits import SHORT, Exit, of_os_error
from fleet.console.logs import Format, set_up
from fleet.console.typed import run_app, with_version

app = typer.Typer(help=f"The hub of an Edgeloop fleet.\n\n{SHORT}", no_args_is_help=True)
keys_app = typer.Typer(help="Key ceremonies; they need the offline keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(drift_app, name="drift")

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The hub's directory.")]
OfflineKeys = Annotated[Path, typer.Option(help="Directory of the offline keys, outside DIR.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="File with the offline keys' passphrase (or set EDGELOOP_PASSPHRASE).")
]
HOST_HELP = "Address that HTTP and Mosquitto listen on; 0.0.0.0: every one."
HOSTNAME_HELP = "Name or address of this hub, for its certificate; devices are told the first. Repeatable."
BrokerPort = Annotated[int | None, typer.Option(help="Port that the broker listens on (8883).", min=1, max=65_535)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[
    str | None, typer.Option(help="text, or json: each line of the log is a JSON document (`log_format` in hub.toml).")
]


@app.command(epilog="Example: cloud-hub init hub --offline-keys /media/usb/keys")
def init(
    directory: Dir,
    offline_keys: OfflineKeys,
    database: Annotated[str, typer.Option(help="postgresql+psycopg://… (default: SQLite in DIR)")] = "",
    objects: Annotated[str, typer.Option(help="s3://bucket/prefix (default: DIR/objects)")] = "",
    hostname: Annotated[list[str] | None, typer.Option(help=HOSTNAME_HELP)] = None,
    host: Annotated[str | None, typer.Option(help=f"{HOST_HELP} (127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port that HTTP listens on (8080).", min=1, max=65_535)] = None,
    broker_port: BrokerPort = None,
    release_key: Annotated[str, typer.Option(help="held (in DIR) or external (goes to the publisher).")] = "held",
    passphrase_file: PassphraseFile = None,
    token_file: Annotated[Path | None, typer.Option(help="Also write the admin token here (0600).")] = None,
    as_json: Json = False,
) -> None:
    """Make keys, database and configuration; prints the first admin token once. Nothing stays when it fails."""
    from cloud_hub.addresses import check_bind, check_hostname
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.bootstrap import initialise
    from cloud_hub.opening.start import warnings

    chosen: dict[str, Any] = {
        "database": database,
        "objects": objects,
        "hostnames": tuple(dict.fromkeys(check_hostname(name) for name in hostname or ())),
        "host": check_bind(host) if host else None,
        "port": port,
        "broker": {"port": broker_port} if broker_port else None,
        "release_key": release_key,
    }
    config = HubConfig.build(directory, {}, **{key: value for key, value in chosen.items() if value})
    made = initialise(config, offline_keys, _passphrase(passphrase_file, ask=True))
    for line in warnings(config.addresses):
        typer.echo(line, err=True)
    _show_made(made.admin_token, config, directory, offline_keys, as_json=as_json)
    if token_file is not None:  # last: a token that cannot be written was shown
        _write_token(token_file, made.admin_token)


def _show_made(token: str, config: Any, directory: Path, offline_keys: Path, *, as_json: bool) -> None:
    url = config.addresses.http_advertise
    if as_json:
        remarks = list(config.addresses.remarks)
        _print_json({"directory": str(config.directory), "url": url, "admin_token": token, "warnings": remarks})
        return
    typer.echo(f"hub made in {config.directory}; offline keys in {offline_keys.resolve()} (take them away)")
    typer.echo(f"first admin token, shown this once:\n\n    {token}\n")
    typer.echo(f"next: cloud-hub serve {directory}")


@app.command(epilog="Example: cloud-hub serve hub --host 0.0.0.0 --port 8443")
def serve(
    directory: Dir,
    host: Annotated[str | None, typer.Option(help=HOST_HELP)] = None,
    port: Annotated[int | None, typer.Option(help="Port that HTTP listens on.", min=1, max=65_535)] = None,
    broker_port: BrokerPort = None,
    grpc_port: Annotated[int | None, typer.Option(help="Answer gRPC here, too.", min=1, max=65_535)] = None,
    tls: Annotated[bool | None, typer.Option("--tls/--no-tls", help="Off is for loopback only.")] = None,
    roles: Annotated[
        str, typer.Option(help="all, or infer: an instance that only answers inference requests.")
    ] = "all",
    log_level: LogLevel = "info",
    log_format: LogFormat = None,
) -> None:
    """Run the hub until SIGTERM. One process owns DIR: a second one is refused (exit code 5).

    With --roles infer it owns nothing: any number of them may run beside the hub, each on its own --port.
    """
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.lock import hub_lock
    from cloud_hub.opening.start import check_safe, run_inference, run_server

    if roles not in ("all", "infer"):
        raise InvalidError(f"unknown role {roles!r}", subject="roles", hint="all or infer")
    given = {"host": host, "port": port, "tls": tls, "broker": {"port": broker_port} if broker_port else None}
    given |= {"inference": {"grpc_port": grpc_port} if grpc_port else None, "log_format": log_format}
    config = HubConfig.load(directory, **{key: value for key, value in given.items() if value is not None})
    _log(log_level, config.log_format, role=roles)
    check_safe(config)
    if roles == "infer":
        run_inference(config, log_level, typer.echo)
        return
    with hub_lock(config.directory, "serve"):
        run_server(config, log_level, typer.echo)


@app.command(epilog="Example: cloud-hub worker hub")
def worker(
    directory: Dir,
    once: Annotated[bool, typer.Option(help="End when no job is waiting.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="HOST:PORT of a Ray cluster to run on.")] = None,
    parent: Annotated[int | None, typer.Option(help="End with this process, whose child it is.", hidden=True)] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = None,
) -> None:
    """Run the hub's jobs until SIGTERM (retrain: train, gate, compile, publish, roll out; tune: search)."""
    from cloud_hub.config import HubConfig
    from cloud_hub.execution.cluster import executor_of
    from cloud_hub.inference.tracing import make_tracer
    from cloud_hub.jobs.worker import run_worker
    from cloud_hub.opening.bootstrap import open_hub
    from cloud_hub.store.words import spoken
    from cloud_hub.training.kinds import kinds

    given = {"worker": {"ray": ray} if ray is not None else None, "log_format": log_format}
    with spoken():
        config = HubConfig.load(directory, **{key: value for key, value in given.items() if value is not None})
        _log(log_level, config.log_format, role="worker")
        tracer = make_tracer(config, "cloud-hub-worker")
        run_worker(open_hub(config), kinds(executor_of(config.worker)), once=once, parent=parent, tracer=tracer)
        tracer.close()


@keys_app.command(epilog="Example: cloud-hub keys renew hub --offline-keys /media/usb/keys")
def renew(
    directory: Dir, offline_keys: OfflineKeys, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Sign root and targets for another year; the hub may run meanwhile."""
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.bootstrap import open_publisher
    from cloud_hub.store.words import spoken
    from cloud_hub.trust import ceremony

    with spoken():
        transactions = open_publisher(HubConfig.load(directory)).transactions
        roles = ceremony.renew(transactions, offline_keys, _passphrase(passphrase_file))
    _tell({"renewed": list(roles)}, f"signed anew: {', '.join(roles)}", as_json)


@keys_app.command(epilog="Example: cloud-hub keys rotate hub rollout --offline-keys /media/usb/keys")
def rotate(
    directory: Dir,
    key: Annotated[str, typer.Argument(help="root, targets, release, rollout, snapshot, timestamp or command.")],
    offline_keys: OfflineKeys,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Replace one key of a hub that is stopped: one that runs would go on signing with the old one, in vain."""
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.bootstrap import open_publisher
    from cloud_hub.opening.lock import hub_lock
    from cloud_hub.store.words import spoken
    from cloud_hub.trust import ceremony

    config = HubConfig.load(directory)
    with hub_lock(config.directory, "keys rotate"), spoken():
        transactions = open_publisher(config).transactions
        key_id = ceremony.rotate(transactions, key, config.keys_dir, offline_keys, _passphrase(passphrase_file))
    text = f"key {key} is now {key_id}; start `cloud-hub serve` again, and every worker"
    _tell({"key": key, "key_id": key_id}, text, as_json)


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


def _log(level: str, form: Format, *, role: str) -> None:
    set_up(level.upper(), form, program="cloud-hub", role=role)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if level != "debug":
        from fleet.serving.seldom import Seldom

        for handler in logging.getLogger().handlers:
            handler.addFilter(Seldom())


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
add_commands(app)
with_version(app, "cloud-hub")


def main() -> None:
    """Entry point: errors become `error: …`, `try: …` and an exit code."""
    from fleet.console import flush, write_any_letter
    from fleet.protocol.errors import ProtocolError

    write_any_letter()
    try:
        try:
            run_app(app, services=("serve", "worker"))
        finally:
            flush()
    except (HubError, ProtocolError) as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_code if isinstance(error, HubError) else 1)
    except OSError as error:
        code = of_os_error(error)
        denied = code is Exit.NOT_ALLOWED
        what = error.strerror or str(error) or type(error).__name__
        hint = "is the disk there, mounted for writing, and not full? choose another place if not"
        _complain(
            f"{error.filename}: {what}" if error.filename else what,
            "run the command as a user who may write there, or choose another place" if denied else hint,
        )
        sys.exit(code)


def _complain(text: str, hint: str) -> None:
    typer.echo(f"error: {text}", err=True)
    if hint:
        typer.echo(f"try: {hint}", err=True)


if __name__ == "__main__":
    main()
