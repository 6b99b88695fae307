"""Servers in the hub's place: fakes that behave as KServe, MLServer and Triton document it, and as nobody should."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.errors import UnreachableError
from edge_agent.ports import Credential
from edge_agent.serving.call_budget import CallBudget
from edge_agent.serving.cloud import CloudError
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.remote import RemoteServers
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry, Remote, Routing
from tests.support import models
from tests.support.agent import Agent

UNSURE = np.zeros((1, 4), np.float32)
SURE = np.array([[9, 0, 0, 0]], np.float32)
REQUEST = oip.InferRequest(inputs=(oip.TensorValue("input", UNSURE),), binary_outputs=oip.ALL)
Reply = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers as `behave` says; remembers paths, headers and bodies.

    Behind a fault of its own it ends the connection when the next request comes on it, as uvicorn does behind an
    application that failed: its answer is out, and says nothing of that.
    """

    daemon_threads = True

    def __init__(self, behave: Callable[[str, dict[str, str], bytes], Reply]) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            ends = False

            def do_POST(handler) -> None:
                if handler.ends:
                    handler.close_connection = True
                    return
                body = handler.rfile.read(int(handler.headers["content-length"]))
                headers = {key.lower(): value for key, value in handler.headers.items()}
                self.asked.append((handler.path, headers, body))
                status, more, data = behave(handler.path, headers, body)
                handler.ends = status == 500
                handler.send_response(status)
                for key, value in {**more, "content-length": str(len(data))}.items():
                    handler.send_header(key, value)
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


def error(status: int, text: str) -> Reply:
    return status, {"content-type": "application/json"}, json.dumps({"error": text}).encode()


def logits(document: dict[str, Any]) -> list[float]:
    x = np.array(document["inputs"][0]["data"], np.float32).reshape(document["inputs"][0]["shape"])
    return models.answer(x).ravel().tolist()


def as_json(**document: Any) -> Reply:
    return 200, {"content-type": "application/json"}, json.dumps(document).encode()


def kserve(path: str, headers: dict[str, str], body: bytes) -> Reply:
    """No versions in paths; null where there is nothing to say."""
    if "/versions/" in path:
        return error(501, "Model version is not supported")
    asked = oip.decode_request(body, oip.parse_header(headers.get(oip.HEADER)))
    out = {
        "name": "logits",
        "shape": [len(asked.inputs[0].array), 3],
        "datatype": "FP32",
        "parameters": None,
        "data": models.answer(asked.inputs[0].array).tolist(),
    }
    return as_json(model_name="tiny", model_version=None, id=None, parameters=None, outputs=[out])


def mlserver(path: str, headers: dict[str, str], body: bytes) -> Reply:
    """JSON only, with content types in the parameters."""
    if oip.HEADER in headers or headers["content-type"] != "application/json":
        return error(500, "Internal Server Error")
    found = logits(json.loads(body))
    out = {
        "name": "logits",
        "shape": [len(found) // 3, 3],
        "datatype": "FP32",
        "parameters": {"content_type": "np"},
        "data": found,
    }
    return as_json(model_name="tiny", id="b7b6", parameters={}, outputs=[out])


def triton(path: str, headers: dict[str, str], body: bytes) -> Reply:
    """Everything binary."""
    asked = oip.decode_request(body, oip.parse_header(headers[oip.HEADER]))
    answer = oip.InferResponse(
        model_name="tiny",
        model_version="4",
        outputs=(oip.TensorValue("logits", models.answer(asked.inputs[0].array)),),
    )
    data, head = oip.encode_response(answer, asked)
    return 200, {"content-type": "application/octet-stream", oip.HEADER: str(head)}, data


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(behave: Callable[[str, dict[str, str], bytes], Reply]) -> Server:
        servers.append(Server(behave))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield begin
    for one in servers:
        one.shutdown()
        one.server_close()


def ask(remote: Remote, times: int = 1, credentials: dict[str, Credential] | None = None, counted: Any = None) -> Any:
    servers = RemoteServers(credentials or {}, counted or (lambda up, down: None))

    async def scenario() -> Any:
        return [await servers.server(remote).infer("tiny", 3, REQUEST, 10.0) for _ in range(times)]

    try:
        return asyncio.run(scenario())
    finally:
        servers.close()


@pytest.mark.parametrize(
    ("behave", "binary", "kinds"),
    [
        (kserve, True, [True, True]),
        (triton, True, [True, True]),
        (mlserver, True, [True, False, False]),  # what it refuses is tried once
        (mlserver, False, [False, False]),
    ],
)
def test_what_servers_differ_in_is_met(serve, behave, binary: bool, kinds: list[bool]) -> None:
    server = serve(behave)
    for answer in ask(Remote(url=server.url, binary=binary), times=2):
        np.testing.assert_allclose(answer.outputs[0].array, models.answer(UNSURE), atol=1e-6)
    assert [oip.HEADER in headers for _, headers, _ in server.asked] == kinds
    assert {path for path, _, _ in server.asked} == {"/v2/models/tiny/infer"}


def test_a_server_that_reads_only_json_is_not_asked_what_json_cannot_say(serve) -> None:
    server = serve(mlserver)
    servers = RemoteServers({}, lambda up, down: None)
    request = replace(REQUEST, inputs=(oip.TensorValue("input", UNSURE * np.float32(np.nan)),))
    try:
        with pytest.raises(CloudError, match=r"holds NaN or infinity, .* name a server .* that takes binary tensors"):
            asyncio.run(servers.server(Remote(url=server.url, binary=False)).infer("tiny", 3, request, 10.0))
    finally:
        servers.close()
    assert not server.asked


def test_a_version_and_another_name_only_where_the_channel_says_so(serve) -> None:
    server = serve(triton)
    ask(Remote(url=server.url + "/base/", model="Tiny_Large.v2", version="4"))
    assert server.asked[0][0] == "/base/v2/models/Tiny_Large.v2/versions/4/infer"
    refusing = serve(kserve)
    with pytest.raises(CloudError, match="501"):
        ask(Remote(url=refusing.url, version="3"))


def test_a_request_that_is_refused_is_not_asked_again_where_binary_has_worked(serve) -> None:
    wrong: list[bool] = []

    def behave(path: str, headers: dict[str, str], body: bytes) -> Reply:
        return error(400, "no") if wrong else triton(path, headers, body)

    server = serve(behave)
    servers = RemoteServers({}, lambda up, down: None)

    async def scenario() -> None:
        one = servers.server(Remote(url=server.url))
        await one.infer("tiny", None, REQUEST, 10.0)
        wrong.append(True)
        with pytest.raises(CloudError):
            await one.infer("tiny", None, REQUEST, 10.0)

    asyncio.run(scenario())
    servers.close()
    assert len(server.asked) == 2


def test_a_credential_goes_to_its_own_origin_and_nowhere_else(serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server, other = serve(triton), serve(triton)
    credentials = {
        "bearer": Credential(origin=server.url, file=str(tmp_path / "token")),
        "key": Credential(origin=server.url, file=str(tmp_path / "token"), header="x-api-key", scheme=""),
        "gone": Credential(origin=server.url, file=str(tmp_path / "none")),
    }
    ask(Remote(url=server.url, credential="bearer"), credentials=credentials)
    ask(Remote(url=server.url, credential="key"), credentials=credentials)
    ask(Remote(url=server.url), credentials=credentials)
    first, second, third = (headers for _, headers, _ in server.asked)
    assert first["authorization"] == "Bearer s3cret" and second["x-api-key"] == "s3cret"
    assert "authorization" not in second and "authorization" not in third
    for url, name in [(other.url, "bearer"), (server.url, "unknown"), (server.url, "gone")]:
        with pytest.raises(CloudError) as caught:
            ask(Remote(url=url, credential=name), credentials=credentials)
        assert caught.value.status == 401
    assert not other.asked and len(server.asked) == 3


def test_redirects_are_not_followed_and_bytes_are_counted(serve) -> None:
    target = serve(triton)
    server = serve(lambda path, headers, body: (307, {"location": target.url + path}, b""))
    spent: list[tuple[int, int]] = []
    with pytest.raises(CloudError, match="307"):
        ask(Remote(url=server.url), counted=lambda up, down: spent.append((up, down)))
    assert not target.asked and spent[0][0] > 16


def test_a_server_that_is_away(serve) -> None:
    server = serve(triton)
    server.shutdown()
    server.server_close()
    with pytest.raises(UnreachableError):
        ask(Remote(url=server.url))


def answers(agent: Agent, entry: ModelEntry, x: np.ndarray, times: int = 1) -> list[oip.InferResponse]:
    async def scenario() -> list[oip.InferResponse]:
        agent.follow(entry)
        await agent.slots.activate(models.release(agent.blobs, data=b"fake", threshold=0.6, cloud=False), None, None)
        return [await agent.ask(x) for _ in range(times)]

    return asyncio.run(scenario())


def with_remote(agent: Agent) -> RemoteServers:
    servers = RemoteServers({}, lambda up, down: None)
    agent.engine.cloud.endpoint = Endpoint(agent.cloud, servers.server)
    return servers


def test_a_channels_server_answers_in_the_hubs_place(serve, tmp_path: Path) -> None:
    server, agent = serve(kserve), Agent(tmp_path)
    servers = with_remote(agent)
    (answer,) = answers(
        agent, ModelEntry(release=1, routing=Routing(deadline_ms=20_000, remote=Remote(url=server.url))), UNSURE
    )
    assert answer.parameters["served_by"] == "cloud" and not agent.cloud.asked
    servers.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "scores"}, "cloud-502"),
        ({"shape": [1, 2], "data": [1.0, 2.0]}, "cloud-502"),
        ({"shape": [3]}, "cloud-502"),
        ({"datatype": "FP64"}, "cloud-502"),
        ({"data": [1.0, None, 2.0]}, "cloud-422"),
        ({"data": [1.0]}, "cloud-502"),
    ],
)
def test_an_answer_that_is_not_the_models_never_goes_out(serve, tmp_path, change: dict[str, Any], word: str) -> None:
    def behave(path: str, headers: dict[str, str], body: bytes) -> Reply:
        out = {"name": "logits", "shape": [1, 3], "datatype": "FP32", "data": [0.1, 0.0, -0.1], **change}
        return as_json(model_name="tiny", outputs=[out])

    agent = Agent(tmp_path)
    servers = with_remote(agent)
    routing = Routing(deadline_ms=20_000, remote=Remote(url=serve(behave).url))
    (answer,) = answers(agent, ModelEntry(release=1, routing=routing), UNSURE)
    told = answer.parameters
    assert (told["served_by"], told["degraded"], told["fallback_reason"]) == ("edge", True, word)
    servers.close()


def test_a_budget_of_calls_keeps_the_local_answer(serve, tmp_path: Path) -> None:
    server, agent = serve(kserve), Agent(tmp_path)
    servers = with_remote(agent)
    agent.engine.cloud.endpoint._now = lambda: 100.0  # type: ignore[union-attr]
    routing = Routing(calls_per_s=2.0, remote=Remote(url=server.url), deadline_ms=20_000)
    found = answers(agent, ModelEntry(release=1, routing=routing), UNSURE, times=4)
    assert [a.parameters["served_by"] for a in found] == ["cloud", "cloud", "edge", "edge"]
    assert found[3].parameters["fallback_reason"] == "cloud-budget" and len(server.asked) == 2
    servers.close()


def test_budgets_fill_evenly() -> None:
    budget, routing = CallBudget(), Routing(calls_per_s=0.5, calls_bytes_per_day=86_400)
    assert budget.allows("m", routing, 0.0)
    budget.called("m", routing, 0.0)
    assert not budget.allows("m", routing, 1.9) and budget.allows("m", routing, 2.0)
    assert budget.allows("other", routing, 0.0)
    budget.spent("m", routing, 86_410, 2.0)
    assert not budget.allows("m", routing, 11.0) and budget.allows("m", routing, 13.0)
    assert budget.allows("m", Routing(), 2.0)


def test_a_speculative_call_begins_before_the_local_answer_is_known(tmp_path: Path) -> None:
    """The local run ends only after the cloud was asked; a sure answer does not wait for the cloud's."""
    agent = Agent(tmp_path)
    asked = threading.Event()

    class Cloud:
        answered = False

        async def infer(self, model, version, request, timeout_s):
            asked.set()
            if not self.answered:
                await asyncio.get_running_loop().create_future()
            out = oip.TensorValue("logits", models.answer(request.inputs[0].array))
            return oip.InferResponse(model_name=model, outputs=(out,))

    async def scenario() -> None:
        agent.follow(ModelEntry(release=1, routing=Routing(when="speculative", deadline_ms=20_000)))
        served = models.release(agent.blobs, data=b"fake", threshold=0.6)
        await agent.slots.activate(served, None, None)
        slot = agent.slots.find("tiny", "")
        assert slot is not None
        run = slot.run

        def late(*given: Any, **more: Any) -> Any:
            assert asked.wait(10)
            return run(*given, **more)

        slot.run = late  # type: ignore[method-assign]
        cloud = Cloud()
        agent.engine.cloud.endpoint = Endpoint(cloud)
        sure = await agent.ask(SURE)
        assert sure.parameters["served_by"] == "edge" and not sure.parameters["degraded"] and asked.is_set()
        cloud.answered = True
        agent.engine.cloud.endpoint = Endpoint(cloud)
        unsure = await agent.ask(UNSURE)
        assert unsure.parameters["served_by"] == "cloud"

    asyncio.run(scenario())
