"""The OpenAPI document is whole: schemas, answers, refusals and credentials of every operation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from cloud_hub.api.guard import RefuseNul
from cloud_hub.api.limits import BodyLimit
from cloud_hub.api.openapi import STRUCTS, document
from cloud_hub.app import routers
from tests.support.hub import HubFixture

PUBLIC = {"/healthz", "/readyz", "/enroll", "/enroll/trust", "/device/nonce", "/device/token", "/device/renew", "/v2"}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return document(routers(), title="Edgeloop hub", version="1")


def operations(whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def references(whole: dict[str, Any]) -> set[str]:
    return set(re.findall(r"'#/components/schemas/([^']+)'", str(whole)))


def test_every_reference_leads_somewhere_and_no_mark_is_left(whole: dict[str, Any]) -> None:
    schemas = whole["components"]["schemas"]
    assert references(whole) - schemas.keys() == set()
    assert "x-wire" not in str(whole) and "HTTPValidationError" not in str(whole)


def test_what_devices_speak_is_defined_by_its_structs(whole: dict[str, Any]) -> None:
    channel = whole["components"]["schemas"]["Channel"]
    assert set(channel["properties"]) == set(STRUCTS["Channel"].__struct_encode_fields__)  # type: ignore[attr-defined]


def test_every_operation_says_which_credential_it_wants(whole: dict[str, Any]) -> None:
    schemes = whole["components"]["securitySchemes"]
    for name, operation in operations(whole):
        wanted = {scheme for choice in operation["security"] for scheme in choice}
        assert wanted <= schemes.keys(), name
        path = name.split(" ")[1]
        assert bool(wanted) != (path in PUBLIC or path.startswith("/v2/health/")), name


def test_refusals_have_the_error_document_and_later_says_when(whole: dict[str, Any]) -> None:
    for name, operation in operations(whole):
        for status, answer in operation["responses"].items():
            if status in ("404", "416") and name.startswith(("head", "get /blobs")):
                continue
            if (status, name) == ("503", "get /readyz"):  # says how it stands, and refuses nothing
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Health")
                continue
            if int(status) >= 400:
                schema = answer["content"]["application/json"]["schema"]["$ref"]
                assert schema.endswith(("ErrorDocument", "OipError")), name
            if status in ("429", "503"):
                assert answer["headers"]["Retry-After"]["required"], name


def test_the_page_needs_nothing_from_elsewhere(hub: HubFixture) -> None:
    page = hub.client.get("/docs")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert link.startswith("/static/") and hub.client.get(link).status_code == 200
    assert hub.client.get("/api/v1/docs", follow_redirects=False).headers["location"] == "/docs"
    assert hub.client.get("/openapi.json").json()["paths"].keys() >= {"/api/v1/audit"}
    assert hub.client.get("/static/vendor/swagger-ui/LICENSE").status_code == 200


def test_no_operation_is_untyped(whole: dict[str, Any]) -> None:
    """Bodies and answers in JSON have schemas by name."""
    for name, operation in operations(whole):
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                schema = content["schema"]
                named = all("$ref" in one or "$ref" in one.get("items", {}) for one in schema.get("anyOf", [schema]))
                assert named or media_type != "application/json", f"{name} {status}"
                assert content["schema"], f"{name} {status}"
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            assert content["schema"], name


def test_what_changes_something_says_what_it_takes(whole: dict[str, Any]) -> None:
    empty = {
        "post /api/v1/alarms/{alarm}/close",
        "post /api/v1/devices/{device_id}/revoke",
        "post /api/v1/jobs/{job}/cancel",
    }
    writing = {name: found for name, found in operations(whole) if name.startswith(("post", "put", "patch"))}
    assert {name for name, found in writing.items() if "requestBody" not in found} == empty


def test_nobody_unknown_is_told_more_than_that(hub: HubFixture, whole: dict[str, Any]) -> None:
    """The caller is asked for before paths, queries and bodies are looked at."""
    for name, operation in operations(whole):
        if not operation["security"]:
            continue
        method, path = name.split(" ")
        url = re.sub(r"\{\w+\}", "1", path)
        answer = hub.client.request(method, url, content=b"{" if "requestBody" in operation else None)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), name


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [("?x=%00", {}, RefuseNul.STATUS), ("", {"content-length": str(1 << 40)}, BodyLimit.STATUS)],
    ids=["a NUL in the query", "a body over every limit"],
)
def test_what_middlewares_refuse_is_documented_for_every_operation(
    hub: HubFixture, whole: dict[str, Any], query: str, headers: dict[str, str], status: int
) -> None:
    undocumented, refused = [], 0
    for name, operation in operations(whole):
        method, path = name.split(" ")
        url = re.sub(r"\{\w+\}", "1", path) + query
        answer = hub.client.request(method, url, headers=hub.auth() | headers)
        assert answer.status_code == status, name
        refused += 1
        if str(status) not in operation["responses"]:
            undocumented.append(name)
    assert undocumented == [] and refused > 100


# What it holds is somebody else's to say.
FREE = {
    "AuditRecord.detail": "each action",
    "CommandAnswer.data": "the device's agent, by the command's kind",
    "DeviceEventInfo.body": "the device's agent, whatever its version",
    "EventInfo.data": "each kind of event",
    "JobInfo.payload": "RetrainOptions or TuneOptions; a job of another version's kind shows its own",
    "JobInfo.result": "the job's kind, step by step",
    "Lineage.extra": "whoever compiled the release",
    "ModelConfig.version_policy": "Triton's protocol",
    "ModelMetadata.parameters": "the Open Inference Protocol",
    "NewCommand.args": "the command's kind, to the device",
    "OipOutput.parameters": "the Open Inference Protocol",
    "OipRequest.parameters": "the Open Inference Protocol",
    "OipResponse.parameters": "the Open Inference Protocol",
    "OipTensor.parameters": "the Open Inference Protocol",
    "Plan.policy": "a GuardPolicy; one that a newer hub wrote is kept as it is, and refused at every step",
    "PolicyInfo.drift": "DriftPolicy; what an earlier version took in is shown as it was",
    "PolicyInfo.labels": "LabelPolicy; likewise",
    "PolicyInfo.samples": "SamplePolicy; likewise",
    "RankedSample.label": "the model's task: a number, a text, or boxes",
    "SampleArray.data": "the tensor's datatype and shape: nested lists of numbers or texts",
    "SampleDetail.label": "the model's task",
    "SampleInfo.label": "the model's task",
    "SampleLabel.label": "the model's task, against which it is checked",
}


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema, the choices of its unions, and what its lists and dictionaries hold."""
    yield schema
    inner = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ())]
    for one in (*inner, schema.get("items"), schema.get("additionalProperties")):
        if isinstance(one, dict):
            yield from parts(one)


def is_free(schema: dict[str, Any]) -> bool:
    """Tell whether anything fits: any JSON, or an object without a word on its fields."""
    if schema.get("$ref", "").endswith("/JsonValue") or not schema.keys() - {"title", "description", "default"}:
        return True
    fields = {"properties", "patternProperties"} & schema.keys()
    return schema.get("type") == "object" and not fields and schema.get("additionalProperties") in (None, True, {})


def test_plain_json_is_named_here_and_nowhere_else(whole: dict[str, Any]) -> None:
    """It hides what a client may rely on."""
    free = {
        f"{name}.{field}"
        for name, schema in whole["components"]["schemas"].items()
        for field, kind in schema.get("properties", {}).items()
        if any(map(is_free, parts(kind)))
    }
    assert free == FREE.keys()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "default": {}},
        {"type": "object", "additionalProperties": True},
        {"additionalProperties": {"$ref": "#/components/schemas/JsonValue"}, "type": "object"},
        {"anyOf": [{"$ref": "#/components/schemas/DriftPolicy"}, {"type": "object"}]},
        {"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#/components/schemas/JsonValue"}]}},
    ],
)
def test_the_search_for_plain_json_sees_it_wherever_it_stands(schema: dict[str, Any]) -> None:
    assert any(map(is_free, parts(schema)))
    assert not any(map(is_free, parts({"type": "object", "additionalProperties": {"type": "integer"}})))
