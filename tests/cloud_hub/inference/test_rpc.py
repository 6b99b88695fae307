"""gRPC on the hub: TLS with the hub's own certificate, its port, and what is missing without the extra."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from cloud_hub.app import create_app, inference_services
from cloud_hub.config import HubConfig
from cloud_hub.config_tables import InferenceConfig
from cloud_hub.errors import ConflictError, HubError
from cloud_hub.inference import rpc
from cloud_hub.inference.rpc import make_rpc_server
from cloud_hub.opening.start import check_rpc
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import encode_manifest
from fleet.rpc import messages
from tests.support import models
from tests.support.hub import make_hub
from tests.support.server import answering, serving


def test_a_token_over_tls_and_the_same_counters_as_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    any_free = lambda config: config.addresses.http._replace(port=0)  # noqa: E731
    monkeypatch.setattr(rpc, "rpc_endpoint", any_free)
    hub = make_hub(tmp_path, start=time.time())
    hub.model("tiny")
    made = models.release(tmp_path / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    token = hub.token("application", scope="infer:tiny", rate_per_s=2.0)
    app = create_app(hub.hub)
    server = inference_services(hub.hub, app.state.inference)[-1]
    request = messages.InferRequest(model_name="tiny", raw_input_contents=[models.inputs(1).tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    data, headers = request.SerializeToString(), (("authorization", f"Bearer {token}"),)
    authority = grpc.ssl_channel_credentials(hub.hub.config.ca_file.read_bytes())
    with serving(app) as (_, loop), answering(server, loop) as address:
        with grpc.secure_channel(address, authority) as channel:
            ask = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer", None, messages.InferResponse.FromString)
            for _ in range(2):
                assert ask(data, metadata=headers, timeout=60).model_version == "1"
            with pytest.raises(grpc.RpcError) as caught:
                ask(data, metadata=headers, timeout=60)
        with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
            plain.unary_unary(f"/{messages.SERVICE}/ServerLive")(b"", timeout=60)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata()) == {"edgeloop-code": "rate-limited", "retry-after": "1"}
    registry = app.state.registry
    for status, count in (("200", 2.0), ("429", 1.0)):
        assert registry.get_sample_value("edgeloop_hub_inference_answers_total", {"status": status}) == count
    app.state.inference.close()


def test_its_port_is_taken_or_the_extra_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        hub = make_hub(tmp_path, inference={"grpc_port": port})
        with pytest.raises(ConflictError, match=f"port {port}.*gRPC") as caught:
            check_rpc(hub.hub.config)
    assert "--grpc-port" in caught.value.hint
    check_rpc(hub.hub.config)
    inference = create_app(hub.hub).state.inference.rpc
    monkeypatch.delitem(sys.modules, "fleet.rpc.server", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with pytest.raises(HubError, match="gRPC is not installed"):
        make_rpc_server(hub.hub.config, inference)


def test_a_database_that_is_away_is_no_fault_of_the_hub(tmp_path: Path) -> None:
    inference = create_app(make_hub(tmp_path).hub).state.inference.rpc
    refusal = inference.refusal(OperationalError("", {}, Exception("it is away")))
    assert refusal is not None and (refusal.code, refusal.later_s) == ("unreachable", 1)
    for error in (OSError("a file"), IntegrityError("", {}, Exception("a fault"))):
        assert inference.refusal(error) is None


def test_what_cannot_be_read_is_counted_for_its_release(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.model("tiny")
    made = models.release(tmp_path / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    for _ in range(2):
        hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    parts = create_app(hub.hub).state.inference

    async def scenario() -> None:
        for version in ("1", ""):
            await parts.loaded.get("tiny", version)

    asyncio.run(scenario())
    parts.rpc.unread("tiny", "1", MalformedError("no"))
    failed = {
        one.number: one.statistics.document("tiny", "")["inference_stats"]["fail"]["count"]
        for one in parts.loaded.served()
    }
    assert failed == {1: 1, 2: 0}
    parts.close()


@pytest.mark.parametrize(("memory", "calls"), [(1 << 30, 8), (16 << 30, 63), (1 << 40, 1024)])
def test_what_calls_may_hold_is_a_part_of_the_memory(
    memory: int, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HubConfig(directory=tmp_path, tls=False, inference=InferenceConfig(grpc_port=8500))
    monkeypatch.setattr(rpc, "memory_bytes", lambda: memory)
    made: dict[str, Any] = {}
    monkeypatch.setattr(rpc, "load_server", lambda: lambda *_, **bounds: made.update(bounds))
    make_rpc_server(config, cast(Any, None))
    assert made["bounds"].calls == calls
    assert made["message_limit"] == config.limits.infer_body + rpc.FRAME
