"""An enrolled device's directory without a hub, and the real agent process on it."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edge_agent.identity.enroll import FILE, FIRST_ROOT, Enrollment
from edge_agent.identity.keys import load_or_make_key
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import MqttEndpoint

ROOT = Path(__file__).resolve().parents[2]


def enrolled(directory: Path, *, hub: str = "http://127.0.0.1:9", mqtt_port: int = 9) -> Path:
    """Write an identity as enrolment leaves it; the hub's address answers nothing."""
    identity = directory / "identity"
    identity.mkdir(parents=True)
    key = load_or_make_key(identity / "device.key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cam-1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (identity / "ca.pem").write_bytes(certificate)
    (identity / "device.crt").write_bytes(certificate)
    (identity / FIRST_ROOT).write_bytes(b"{}")
    endpoint = MqttEndpoint(host="127.0.0.1", port=mqtt_port, tls=False, password="x")
    found = Enrollment(hub=hub, device_id="cam-1", channel="stable", mqtt=endpoint)
    (identity / FILE).write_bytes(encode_json(found))
    return directory


@contextlib.contextmanager
def running(
    directory: Path,
    *arguments: str,
    python: str = sys.executable,
    code: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`edge-agent run` as a process of `python`, of the packages in the folder `code`, with `environment`
    beside this process's; gives it and its address once it listens."""
    (directory / "run.json").unlink(missing_ok=True)
    process = subprocess.Popen(
        [python, "-m", "edge_agent.main", "run", "--dir", str(directory), *arguments],
        cwd=ROOT if code == ROOT else directory,  # -m finds packages in the working directory first
        stderr=(directory / "log").open("ab"),
        env={**os.environ, "PYTHONPATH": str(code), **environment},
    )
    try:
        deadline = time.monotonic() + 120
        while not (directory / "run.json").exists():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.02)
        yield process, json.loads((directory / "run.json").read_text())["address"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
