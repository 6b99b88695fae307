"""The start of `serve`: it looks before it touches anything, owns its directory, and takes its ports."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from cloud_hub.addresses import Addresses
from cloud_hub.config import HubConfig
from cloud_hub.errors import ForbiddenError, HubError
from fleet.protocol.hosts import is_loopback

log = logging.getLogger(__name__)


def check_safe(config: HubConfig) -> None:
    """Raise ForbiddenError when offline keys lie in the hub's directory, or the network is not loopback without TLS."""
    from cloud_hub.opening.bootstrap import offline_keys_inside

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
    listener, broker = config.addresses.broker, config.broker.resolved()
    if listener is not None and not broker.tls and not is_loopback(listener.host):
        raise ForbiddenError(
            f"the broker's address {listener.host} is not loopback, and its TLS is off",
            subject=listener.host,
            hint="install Mosquitto (apt-get install mosquitto), or set broker.tls",
        )


@contextlib.contextmanager
def ports(config: HubConfig) -> Iterator[list[socket.socket]]:
    """Take the port of HTTP, and see that the broker's is free but for a leftover of our own, which is ended.

    Raises:
        ConflictError: one of them is taken; the message says by whom, as far as can be seen.
    """
    from cloud_hub.broker.leftover import end_leftover
    from cloud_hub.opening.listening import check_free, listen_at

    addresses = config.addresses
    end_leftover(config.directory / "broker")
    found = listen_at(addresses.http, "HTTP", "--port, or `port` in hub.toml")
    try:
        if addresses.broker is not None:
            check_free(addresses.broker, "the broker", "--broker-port, or `port` under [broker] in hub.toml")
        check_rpc(config)
        yield found
    finally:
        for one in found:
            one.close()


def check_rpc(config: HubConfig) -> None:
    """See that the port of gRPC is free, if there is one; raises ConflictError."""
    from cloud_hub.inference.rpc import rpc_endpoint
    from cloud_hub.opening.listening import check_free

    endpoint = rpc_endpoint(config)
    if endpoint is not None:
        check_free(endpoint, "gRPC", "--grpc-port, or `grpc_port` under [inference] in hub.toml")


def introduction(config: HubConfig) -> list[str]:
    """Return the lines that are printed at the start: every address, the broker that was chosen, and the callers
    that cannot reach them."""
    from cloud_hub.inference.rpc import rpc_endpoint

    addresses, broker, rpc = config.addresses, config.broker.resolved(), rpc_endpoint(config)
    what = {"mosquitto": f"mosquitto ({broker.binary()})", "embedded": "the embedded one", "external": "external"}
    where = f"on {addresses.broker}" if addresses.broker else f"at {addresses.broker_connect}"
    return [
        f"hub at {addresses.http_connect} (dashboard: {addresses.http_connect}/)",
        f"HTTP listens on {addresses.http}; devices reach it at {addresses.http_advertise}",
        f"broker: {what[broker.kind]} {where}; devices are told {addresses.broker_advertise}",
        *([f"gRPC listens on {rpc}"] if rpc is not None else []),
        *warnings(addresses),
    ]


def warnings(addresses: Addresses) -> list[str]:
    """The remarks as lines for a terminal."""
    return [f"warning: {remark}" for remark in addresses.remarks]


def run_server(config: HubConfig, log_level: str, say: Callable[[str], None]) -> None:
    """Migrate, open the hub and serve until SIGTERM or SIGINT. Whoever calls owns the directory (`lock.hub_lock`).

    Raises:
        HubError: it cannot start; the message says why.
    """
    from cloud_hub.app import all_services, create_app
    from cloud_hub.identity.own import renew_own
    from cloud_hub.inference.tracing import make_tracer
    from cloud_hub.opening.bootstrap import open_database, open_hub

    with ports(config) as listening:
        open_database(config)
        for name in renew_own(config, time.time()):
            log.info("renewed the hub's own certificate %s", name)
        hub = open_hub(config)
        _catch_up(hub)
        for line in introduction(config):
            say(line)
        tracer = make_tracer(config)
        _serve(create_app(hub, all_services(hub, tracer), tracer=tracer), config, listening, log_level)
        hub.engine.dispose()


def _catch_up(hub: Any) -> None:
    """See `replaying.replay`: after a restore by whatever means, nothing that was forbidden is served."""
    from cloud_hub.opening.replaying import replay

    done = replay(hub)
    if done.entries:
        log.warning("the database was older than the journal: %d entries were carried out again", done.entries)
    for problem in done.problems:
        log.warning("%s", problem)


def run_inference(config: HubConfig, log_level: str, say: Callable[[str], None]) -> None:
    """Answer inference requests alone until SIGTERM or SIGINT: one of any number of instances beside a hub.

    It owns nothing: it migrates no database, renews no certificate, starts no broker and no worker, and needs no key
    that signs or certifies. All it knows is in the database and the object store.

    Raises:
        HubError: it cannot start; the message says why.
    """
    from cloud_hub.app import create_app
    from cloud_hub.opening.bootstrap import check_database, open_instance
    from cloud_hub.opening.listening import listen_at

    listening = listen_at(config.addresses.http, "HTTP", "--port")
    try:
        check_database(config)
        check_rpc(config)
        hub = open_instance(config)
        say(f"inference at {config.addresses.http_connect}/v2, over the hub's database and objects")
        _serve(create_app(hub, inference_only=True), config, listening, log_level)
        hub.engine.dispose()
    finally:
        for one in listening:
            one.close()


def _serve(app: Any, config: HubConfig, listening: list[socket.socket], log_level: str) -> None:
    from cloud_hub.opening.server import make_server
    from fleet.protocol.described import describe_all

    describe_all()  # before the services' threads begin
    certificates: dict[str, Any] = {}
    if config.tls:
        certificates = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)}
    # uvicorn stops gracefully and then raises the signal again, which would end us with its number, not 0
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server = make_server(
        app,
        app.state.inference.shared,
        log_level=log_level,
        log_config=None,  # its lines go where the hub's go, and cannot flood it either
        access_log=log_level == "debug",
        timeout_graceful_shutdown=10,
        **certificates,
    )
    gc.collect()
    gc.freeze()  # what is here stays: a full collection looked through it for 0.2 s, with every thread waiting
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=listening)
    if not server.started:
        raise HubError("the hub did not start", hint="its log says why")
