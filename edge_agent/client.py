"""A client of the agent's local API, for its own commands: over loopback or the Unix socket.

A running agent leaves its address in `DIR/run.json`. After a kill the file is still there, and any program may
answer at that address: whether an agent runs says its lock, and whether it is that one, what it answers.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy.typing as npt
from msgspec import Struct

from edge_agent import given_arrays
from edge_agent.errors import AgentError, NotFoundError, UnreachableError, UsageError
from edge_agent.host.lock import is_running
from fleet.protocol import oip

RUN_FILE = "run.json"
TIMEOUT_S = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Run(Struct, frozen=True):
    """`run.json`."""

    address: str
    pid: int = 0


def found(directory: Path) -> tuple[str, dict[str, Any]]:
    """Address (`http://127.0.0.1:PORT` or `unix:PATH`) and status of the agent that runs in `directory`.

    Raises:
        UnreachableError: none runs, it does not answer (yet), or what answers there is not this agent.
        OSError: this user may not look.
    """
    if not is_running(directory):
        raise UnreachableError(
            f"no agent runs in {directory}", subject=str(directory), hint=f"edge-agent run --dir {directory}"
        )
    try:
        run = msgspec.json.decode((directory / RUN_FILE).read_bytes(), type=Run)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise UnreachableError(
            f"the agent that runs in {directory} has not said where it listens",
            subject=str(directory),
            hint="it may still be starting; otherwise its log says why",
        ) from error
    code, _, data = call(run.address, "GET", "/status")
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        document = {}
    if code != 200 or document.get("pid") != run.pid:
        raise UnreachableError(
            f"what answers at {run.address} is not the agent that runs in {directory} (HTTP {code})",
            subject=run.address,
            hint="it may still be starting; otherwise another program has its port: see its log",
        )
    return run.address, document


def call(address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
    """Call the agent's API once.

    Args:
        address: `http://HOST:PORT`, or `unix:PATH`.
        method: such as `GET`.
        path: starts with a slash and holds the query.
        body: bytes to send.
        headers: by name.

    Returns:
        Status, headers and body.

    Raises:
        UnreachableError: no agent answers.
        UsageError: it is no such address.
    """
    if address.startswith("unix:"):
        connection: http.client.HTTPConnection = _UnixConnection(address.removeprefix("unix:"))
    else:
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"{address!r} is not an address like http://127.0.0.1:8200", subject="url")
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (OSError, http.client.HTTPException) as error:
        hint = "is the agent running?"
        if isinstance(error, PermissionError):
            hint = "its socket is open to the agent's user and the group edgeloop"
        raise UnreachableError(f"{address} does not answer: {error}", hint=hint) from error
    finally:
        connection.close()


def infer(
    model: str,
    given: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
    *,
    url: str | None = None,
    directory: Path | None = None,
) -> oip.InferResponse:
    """Ask the agent, and return its answer.

    Args:
        model: its name.
        given: arrays by the names of inputs (see `given_arrays`), or the array of a single input; they are converted
            to the inputs' datatypes.
        url: where the agent listens; None where `directory` says so.
        directory: the agent's.

    Raises:
        NotFoundError: no such model. UnreachableError: no agent. UsageError: the arrays do not fit the model.
        AgentError: any other refusal.
    """
    if url is None:
        assert directory is not None
        url, _ = found(directory)
    status, _, data = call(url, "GET", f"/v2/models/{model}")
    _check(status, data)
    named = given if isinstance(given, Mapping) else {given_arrays.LONE: given}
    arrays = given_arrays.fitted(model, named, _inputs(data, url))
    values = tuple(oip.TensorValue(name, array) for name, array in arrays.items())
    body, length = oip.encode_request(oip.InferRequest(inputs=values, binary_outputs=oip.ALL))
    headers = {oip.HEADER: str(length)} if length is not None else {}
    status, got, data = call(url, "POST", f"/v2/models/{model}/infer", body, headers)
    _check(status, data)
    return oip.decode_response(data, oip.parse_header(got.get(oip.HEADER)))


def status(directory: Path) -> dict[str, Any]:
    """The running agent's status, or what the disk says when none runs or answers (`source`: `files`).

    Raises:
        NotFoundError: the directory holds no agent. OSError: this user may not look.
    """
    try:
        return {"running": True, "source": "agent", **found(directory)[1]}
    except UnreachableError as error:
        if not (directory / "identity").is_dir() and not (directory / "state.json").exists():
            raise NotFoundError(
                f"{directory} holds no agent", subject=str(directory), hint="edge-agent enroll URL --token T --dir DIR"
            ) from error
        from edge_agent import status
        from edge_agent.config import load_config

        document = status.of_files(load_config(directory), status.state_of(directory), running=is_running(directory))
        return {key: msgspec.to_builtins(value) for key, value in document.items()}


def _inputs(data: bytes, url: str) -> list[dict[str, Any]]:
    try:
        return msgspec.convert(msgspec.json.decode(data, type=dict[str, Any])["inputs"], list[dict[str, Any]])
    except (msgspec.MsgspecError, KeyError) as error:
        raise UnreachableError(f"what answers at {url} is no agent: {error}", hint="check the address") from error


def _check(status_code: int, data: bytes) -> None:
    if status_code == 200:
        return
    try:
        text = str(msgspec.json.decode(data, type=dict[str, Any]).get("error", ""))
    except msgspec.DecodeError:
        text = ""
    kind = NotFoundError if status_code == 404 else AgentError
    raise kind(text or f"the agent answered HTTP {status_code}")
