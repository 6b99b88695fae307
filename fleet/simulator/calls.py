"""Devices' own calls to the hub over HTTP, all through one pool of connections."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import urllib3

from edge_agent.errors import DeniedError, UnreachableError
from edge_agent.identity import pairs
from edge_agent.identity.enroll import load_enrollment
from edge_agent.identity.http import read_answer
from edge_agent.identity.keys import load_key, sign_nonce
from edge_agent.identity.pool import pool_manager
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import DeviceMe, NonceResponse, TokenRequest, TokenResponse

T = TypeVar("T")

TIMEOUT_S = 60.0


class Calls:
    """For any number of threads; a device's token is kept until the hub refuses it."""

    def __init__(self, directory: Path, *, connections: int = 8) -> None:
        """`directory` is that of any device enrolled with the hub."""
        self._base = load_enrollment(directory).hub
        self._pool = pool_manager(
            maxsize=connections,
            block=True,
            ca_certs=str(directory / "identity" / "ca.pem"),
            retries=False,
            timeout=TIMEOUT_S,
        )
        self._tokens: dict[str, str] = {}

    def me(self, device_id: str, directory: Path) -> DeviceMe:
        """Return the hub's document about the device enrolled in `directory`.

        Raises:
            UnreachableError: no answer, or not this one. DeniedError: the hub does not know it any more.
        """
        for _ in range(2):
            token = self._tokens.get(device_id) or self._buy(device_id, directory)
            status, data = self._call("GET", "/device/me", None, token)
            if status == 200:
                return read_answer(data, DeviceMe, "/device/me")
            self._tokens.pop(device_id, None)
            if status != 401:
                raise UnreachableError(f"/device/me answers HTTP {status}", subject=device_id)
        raise DeniedError("the hub refuses this device", subject=device_id)

    def _buy(self, device_id: str, directory: Path) -> str:
        nonce = self._ask("/device/nonce", encode_json({"device_id": device_id}), NonceResponse).nonce
        signature = sign_nonce(load_key(directory / "identity" / pairs.KEY), nonce)
        request = TokenRequest(device_id=device_id, nonce=nonce, signature=signature)
        self._tokens[device_id] = token = self._ask("/device/token", encode_json(request), TokenResponse).token
        return token

    def _ask(self, path: str, body: bytes, kind: type[T]) -> T:
        status, data = self._call("POST", path, body, "")
        if status in (401, 403):
            raise DeniedError("the hub refuses this device", subject=path)
        if status != 200:
            raise UnreachableError(f"{path} answers HTTP {status}", subject=self._base)
        return read_answer(data, kind, path)

    def _call(self, method: str, path: str, body: bytes | None, token: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._pool.request(method, self._base + path, body=body, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the hub at {self._base} does not answer: {error}", subject=self._base) from error
        return answer.status, answer.data
