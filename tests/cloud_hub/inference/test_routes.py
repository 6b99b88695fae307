"""The protocol over a real socket, asked by Triton's own client."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from tritonclient import http as triton

from cloud_hub.app import create_app
from cloud_hub.inference.loaded import Loaded, WarmUp, wanted
from cloud_hub.store.fresh import Freshness
from cloud_hub.trust.rows import get_release
from fleet.protocol.channel import Audit, ModelEntry
from fleet.protocol.manifest import decode_manifest, encode_manifest
from tests.support import models
from tests.support.hub import HubFixture
from tests.support.server import serving


@pytest.fixture
def published(hub: HubFixture, tmp_path) -> HubFixture:
    hub.model("tiny")
    made = models.release(tmp_path / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    return hub


def test_triton_client_json_binary_and_gzip(published: HubFixture) -> None:
    headers = published.auth(published.token("application", scope="infer:tiny"))
    x = models.inputs(5)
    with serving(create_app(published.hub)) as (address, _):
        client = triton.InferenceServerClient(address)
        assert client.is_model_ready("tiny", headers=headers)
        for binary in (True, False):
            asked = triton.InferInput("input", list(x.shape), "FP32")
            asked.set_data_from_numpy(x, binary_data=binary)
            wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
            answer = client.infer(
                "tiny",
                [asked],
                "1",
                wanted,
                headers=dict(headers),  # the client writes into them
                request_compression_algorithm="gzip",
                response_compression_algorithm="gzip",
            )
            assert np.allclose(answer.as_numpy("logits"), models.answer(x), atol=1e-5)
            told = answer.get_response()["parameters"]
            assert 0 < told.pop("latency_us") < 60e6
            plain = {"degraded": False, "fallback_reason": ""}
            assert told == {"served_by": "cloud", "release": 1, "variant": "cloud", **plain}
        client.close()


def test_the_best_classes_by_name(published: HubFixture) -> None:
    headers, x = published.auth(published.token("application", scope="infer:tiny")), models.inputs(1)
    asked = {
        "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": x.ravel().tolist()}],
        "outputs": [{"name": "logits", "parameters": {"classification": 1}}],
    }
    (output,) = published.client.post("/v2/models/tiny/infer", json=asked, headers=headers).json()["outputs"]
    best = int(models.answer(x).argmax())
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 1])
    assert output["data"][0].endswith(f":{best}:{models.LABELS[best]}")
    metadata = published.client.get("/v2/models/tiny", headers=headers).json()
    assert metadata["parameters"]["labels"] == list(models.LABELS)


def test_who_may_ask_and_what_is_withdrawn(published: HubFixture) -> None:
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}

    def status(token: str, path: str = "/v2/models/tiny/infer") -> int:
        return published.client.post(path, json=body, headers=published.auth(token)).status_code

    mine = published.token("application", scope="infer:tiny")
    assert status(mine) == 200
    assert status(published.token("application", scope="infer:other")) == 403
    assert status(mine, "/v2/models/tiny/versions/2/infer") == 404
    slow = published.token("application", scope="infer:tiny", rate_per_s=1.0)
    assert [status(slow), status(slow)] == [200, 429]
    refused = published.client.post("/v2/models/tiny/infer", json=body, headers=published.auth(slow))
    assert refused.json()["code"] == "rate-limited" and refused.headers["retry-after"] == "1"
    published.hub.publisher.withdraw("tiny", 1, "bad", actor="test")
    assert status(mine) == 404


def test_what_channels_need_is_loaded_before_anybody_asks(published: HubFixture) -> None:
    """The auditor first; a release whose file is gone does not keep the others cold."""
    hub = published.hub
    with hub.reading() as session:
        first = decode_manifest(get_release(session, "tiny", 1).manifest)
    published.model("edge-only")
    published.release("edge-only")
    hub.publisher.publish_release("tiny", encode_manifest(first), actor="test")
    entries = {
        "tiny": ModelEntry(release=1, audit=Audit(auditor=2)),
        "edge-only": ModelEntry(release=1),
    }
    hub.publisher.change_channel("stable", lambda c: msgspec.structs.replace(c, models=entries), actor="test")
    assert set(wanted(hub)) == {("tiny", 2), ("edge-only", 1), ("tiny", 1)} and wanted(hub)[-1] == ("tiny", 1)
    freshness = Freshness(lambda: 1)
    loaded = Loaded(hub, freshness)
    asyncio.run(WarmUp(hub, loaded).run())
    assert loaded.models == [("tiny", 2), ("tiny", 1)]
    loaded.close()
    freshness.close()
