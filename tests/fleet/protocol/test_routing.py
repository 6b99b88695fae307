"""A channel's words on the cloud; an agent that cannot read all of them reads none."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent import CAPABILITIES
from fleet.protocol.channel import (
    Channel,
    ModelEntry,
    Remote,
    Routing,
    check_channel,
    decode_channel,
    encode_channel,
    with_requirements,
)
from fleet.protocol.errors import ProtocolError, UnsupportedError

URL = "https://kserve.example:8080"


def channel(routing: Routing, **fields: Any) -> Channel:
    return Channel(channel="stable", version=1, models={"digits": ModelEntry(release=1, routing=routing)}, **fields)


@pytest.mark.parametrize(
    ("routing", "needed"),
    [
        (Routing(cloud=False, deadline_ms=5, threshold=0.4), ()),
        (Routing(when="always"), ("routing-when",)),
        (Routing(calls_per_s=1.0), ("routing-budget",)),
        (Routing(calls_bytes_per_day=1), ("routing-budget",)),
        (Routing(remote=Remote(url=URL), when="never"), ("routing-remote", "routing-when")),
        (Routing(remote=Remote(url="grpcs://triton.example:8001")), ("routing-grpc", "routing-remote")),
    ],
)
def test_what_an_older_agent_would_misread_is_required(routing: Routing, needed: tuple[str, ...]) -> None:
    made = with_requirements(channel(routing, requires=("litert", "routing-when")))
    assert made.requires == ("litert", *needed)
    assert decode_channel(encode_channel(made), frozenset({"litert", "routing-grpc", *CAPABILITIES})) == made
    if needed:
        with pytest.raises(UnsupportedError) as caught:
            decode_channel(encode_channel(made), frozenset({"litert", "non-finite"}))
        assert caught.value.subject == needed[0]


@pytest.mark.parametrize(
    "routing",
    [
        Routing(when="sometimes"),
        Routing(calls_per_s=-1.0),
        Routing(calls_per_s=float("nan")),
        Routing(calls_bytes_per_day=-1),
        Routing(remote=Remote(url="ftp://kserve.example")),
        Routing(remote=Remote(url="https://user:secret@kserve.example")),
        Routing(remote=Remote(url=URL + "?x=1")),
        Routing(remote=Remote(url="grpc://triton.example:8001/path")),
        Routing(remote=Remote(url=URL, model="../admin")),
        Routing(remote=Remote(url=URL, version="1/ready")),
        Routing(remote=Remote(url=URL, credential="../key")),
    ],
)
def test_what_no_channel_may_say(routing: Routing) -> None:
    with pytest.raises(ProtocolError):
        check_channel(channel(routing))
