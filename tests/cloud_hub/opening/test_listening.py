"""A port that is taken is named, with who has it; the address families of a name are all listened on."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from cloud_hub.addresses import Endpoint
from cloud_hub.errors import ConflictError, ForbiddenError, InvalidError
from cloud_hub.opening import listening
from cloud_hub.opening.listening import check_free, listen_at

TAKE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_taken_port_is_named_with_its_holder() -> None:
    other = subprocess.Popen([sys.executable, "-c", TAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    port = int(other.stdout.readline())
    try:
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(ConflictError, match=rf"port {port} .*the broker.* by process {other.pid} \(") as caught:
                check_free(Endpoint(host, port), "the broker", "--broker-port")
            assert caught.value.exit_code == 5 and "--broker-port" in caught.value.hint
    finally:
        other.communicate()
    check_free(Endpoint("127.0.0.1", port), "the broker", "--broker-port")


def test_our_own_port_is_called_ours() -> None:
    port = free_port()
    (one,) = listen_at(Endpoint("127.0.0.1", port), "HTTP", "--port")
    with one, pytest.raises(ConflictError, match="by this very hub"):
        check_free(Endpoint("127.0.0.1", port), "the broker", "--broker-port")


def test_every_address_of_a_name_is_listened_on() -> None:
    found = listen_at(Endpoint("localhost", free_port()), "HTTP", "--port")
    families = {one.family for one in found}
    for one in found:
        assert one.proto == socket.IPPROTO_TCP  # by which asyncio knows to send small pieces at once
        one.close()
    assert socket.AF_INET in families


@pytest.mark.parametrize("host", ["198.51.100.7", "no-such-host.invalid"])
def test_a_host_that_is_not_here(host: str) -> None:
    with pytest.raises(InvalidError, match="HTTP cannot listen on"):
        listen_at(Endpoint(host, 8080), "HTTP", "--port")


def test_a_port_that_this_user_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listening, "_listener", refused)
    with pytest.raises(ForbiddenError, match="may not listen on port 443, which HTTP wants") as caught:
        listen_at(Endpoint("127.0.0.1", 443), "HTTP", "--port")
    assert "above 1023" in caught.value.hint
