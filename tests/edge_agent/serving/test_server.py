"""The local API's socket."""

from __future__ import annotations

import socket

import pytest

from edge_agent.config import AgentConfig
from edge_agent.errors import UsageError
from edge_agent.serving.server import listen


def test_accepted_connections_do_not_wait_for_delayed_acknowledgements(tmp_path):
    """Without TCP_NODELAY an answer in two segments takes 40 ms longer than the model needs."""
    listener = listen(AgentConfig(dir=tmp_path, port=0))
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_local_api_stays_on_this_machine(tmp_path):
    with pytest.raises(UsageError, match="loopback only"):
        listen(AgentConfig(dir=tmp_path, host="0.0.0.0"))
