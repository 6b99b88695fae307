"""A body that is refused: which field, what is wrong, what to do."""

from __future__ import annotations

import pytest

from tests.support.hub import HubFixture

URL = "/api/v1/tokens"


@pytest.mark.parametrize(
    ("body", "subject", "words"),
    [
        (b'{"kind": 1}', "kind", "request body: kind: it should be a valid string"),
        (b"{}", "kind", "the field 'kind' is missing"),
        (b'{"kind": "a", "typo": 1}', "body", "there is no field 'typo'"),
        (b'{"kind": "a\\u0000"}', "kind", "it holds a NUL character"),
        (b'{"kind": "a", "rate_per_s": NaN}', "rate_per_s", "finite"),
        (b'{"kind": "a", "rate_per_s": 1e300}', "rate_per_s", "less than or equal"),
        (b'{"kind": "a", "labels": {"k": 1}}', "labels.k", "it should be a valid string"),
        (b'{"kind": "' + b"a" * 300 + b'"}', "kind", "at most 255"),
        (b'{"kind": "\\ud800"}', "body", "this is not JSON"),
        (b'{"kind": "a", "rate_per_s": 1' + b"0" * 5000 + b"}", "body", "this is not JSON"),
        (b"[" * 100_000, "body", "this is not JSON"),
        (b"\xff", "body", "this is not JSON"),
        (b"[]", "body", "an object"),
    ],
)
def test_a_refusal_names_the_field_and_says_what_is_wrong(
    hub: HubFixture, body: bytes, subject: str, words: str
) -> None:
    answer = hub.client.post(URL, content=body, headers=hub.auth())
    assert answer.status_code == 400 and answer.json()["code"] == "invalid"
    assert answer.json()["subject"] == subject
    assert words in answer.json()["error"]


def test_an_unknown_field_is_answered_with_the_known_ones(hub: HubFixture) -> None:
    answer = hub.client.post(URL, json={"knd": "mirror", "kind": "mirror"}, headers=hub.auth())
    assert answer.json()["hint"].startswith("one of: channel, expires_in_s, kind")


def test_who_sends_is_asked_before_what_is_sent(hub: HubFixture) -> None:
    assert hub.client.post(URL, content=b"{").status_code == 401
    viewer = hub.auth(hub.token(role="viewer"))
    assert hub.client.post(URL, content=b"{", headers=viewer).status_code == 403


def test_a_body_over_the_limit_is_refused_before_it_is_read(hub: HubFixture) -> None:
    limit = hub.hub.config.limits.body
    answer = hub.client.post(URL, content=b" " * (limit + 1), headers=hub.auth())
    assert answer.status_code == 413 and answer.json()["code"] == "too-large"


@pytest.mark.parametrize("query", ["after=99999999999999999999", "after=x", "limit=0", "limit=" + "9" * 5000])
def test_numbers_in_a_query_are_bounded(hub: HubFixture, query: str) -> None:
    answer = hub.client.get(f"/api/v1/audit?{query}", headers=hub.auth())
    assert answer.status_code == 400 and answer.json()["subject"].startswith("query.")


def test_a_path_holds_no_nul(hub: HubFixture) -> None:
    assert hub.client.delete(f"{URL}/a%00b", headers=hub.auth()).status_code == 400
