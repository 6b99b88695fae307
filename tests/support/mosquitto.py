"""A real Mosquitto of nobody's hub: TLS, logins or certificates, an access list, and one reader that keeps all."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cloud_hub.identity.ca import Authority, create_authority
from tests.support.require import require

WAIT_S = 60.0
PASSWORD = "a password with ünusual letters"


class Broker:
    """A broker at `port` whose authority is `ca`; `hub` writes `edgeloop/#` and `site/#`, `pager` reads all."""

    def __init__(self, folder: Path, *, by_certificate: bool = False) -> None:
        self.folder, self.by_certificate = folder, by_certificate
        self.binary = str(require("mosquitto", "mosquitto"))
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority(create_authority(time.time()))
        self.ca = self._file("ca.pem", self._authority.ca_pem)
        server = self._authority.server(("127.0.0.1",), time.time())
        self._file("server.pem", server.certificate), self._file("server.key", server.key)
        self.certificate, self.key = self.make_client("hub")
        self.password_file = self._file("password", f"{PASSWORD}\n".encode())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    def make_client(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate and its key."""
        made = self._authority.hub_client(time.time(), name=name)
        return self._file(f"{name}.pem", made.certificate), self._file(f"{name}.key", made.key)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        users = f"hub:{PASSWORD}\npager:{PASSWORD}\n"
        logins = self._file("logins", users.encode())
        subprocess.run([str(require("mosquitto_passwd", "mosquitto")), "-U", str(logins)], check=True, timeout=60)
        self._file("acl", b"user hub\ntopic write edgeloop/#\ntopic write site/#\nuser pager\ntopic read #\n")
        who = (
            "require_certificate true\nuse_identity_as_username true"
            if self.by_certificate
            else f"password_file {logins}"
        )
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"cafile {self.ca}",
            f"certfile {self.folder}/server.pem",
            f"keyfile {self.folder}/server.key",
            "allow_anonymous false",
            who,
            f"acl_file {self.folder}/acl",
            "log_dest stderr",
            "user root",
            "",
        ]
        configuration = self._file("mosquitto.conf", "\n".join(lines).encode())
        with (self.folder / "log").open("ab") as output:
            self._child = subprocess.Popen([self.binary, "-c", str(configuration)], stdout=output, stderr=output)
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and self._child.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait(WAIT_S)
            self._child = None

    def _file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path


class Reader:
    """The messages that came to `pager`: topic, body, and whether it was retained; a context manager."""

    def __init__(self, broker: Broker, topics: str) -> None:
        self.got: list[tuple[str, bytes, bool]] = []
        self._changed, self._ready = threading.Condition(), threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="pager", protocol=mqtt.MQTTv311)
        certificate = broker.make_client("pager") if broker.by_certificate else (None, None)
        client.tls_set(str(broker.ca), *(str(path) if path else None for path in certificate))
        client.username_pw_set("pager", PASSWORD)
        client.on_connect = lambda *_: client.subscribe(topics, 1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._on_message
        self._client, self._port = client, broker.port

    def __enter__(self) -> Reader:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self, count: int) -> list[tuple[str, bytes, bool]]:
        """The first `count` messages."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, WAIT_S), self.got
            return self.got[:count]

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.got.append((message.topic, bytes(message.payload), message.retain))
            self._changed.notify_all()


@contextmanager
def running_broker(folder: Path, *, by_certificate: bool = False) -> Iterator[Broker]:
    """A broker that runs until the end of the block."""
    broker = Broker(folder, by_certificate=by_certificate)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
