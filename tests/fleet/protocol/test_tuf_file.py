"""The structs of TUF's metadata hold all that a hub signs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cloud_hub.trust.transaction import METADATA
from fleet.protocol.codec import encode_json
from fleet.protocol.errors import MalformedError
from fleet.protocol.tuf_file import decode_tuf_file
from tests.support.device import follow, publish
from tests.support.hub import make_hub


def test_every_file_that_a_hub_signs_comes_back_whole(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    follow(hub, publish(hub, tmp_path))
    roles = set()
    for listed in hub.hub.objects.list(METADATA.rstrip("/")):
        data = hub.hub.objects.get(listed.key).data
        read = decode_tuf_file(data)
        roles.add(read.signed.type)
        again, signed = msgspec.json.decode(encode_json(read)), msgspec.json.decode(data)
        blank = {"meta", "targets"} - signed["signed"].keys()
        assert {key: value for key, value in again["signed"].items() if key not in blank} == signed["signed"]
        assert again["signatures"] == signed["signatures"]
    assert roles == {"root", "timestamp", "snapshot", "targets"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[]", "object"),
        (b"\xff", "invalid"),
        (b'{"signed": {"_type": "root"}, "signatures": []}', "spec_version"),
        (
            b'{"signed": {"_type": "x", "spec_version": "1", "version": 1, "expires": "soon"}, "signatures": []}',
            "expires",
        ),
    ],
)
def test_what_is_no_metadata_is_refused_with_the_place(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        decode_tuf_file(data, subject="1.root.json")
