"""A model card says what is known, calls the rest unknown, and nothing in it means anything to Markdown."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from cloud_hub.cards.facts import gather
from cloud_hub.cards.markdown import _tensors, card, plain
from cloud_hub.errors import ConflictError
from cloud_hub.store.tables import Release, RolloutRow, Snapshot
from fleet.protocol.manifest import Blob, Lineage, Tensor, decode_manifest, encode_manifest
from fleet.protocol.manifest_detail import detail_of, encode_detail, without_detail
from tests.support.acting import Person, text_of
from tests.support.hub import HubFixture
from tests.support.manifests import small_release

EVIL = "a](javascript:x) <img src=x> | # `b` \n# heading\x1b[2J\u202e"


def publish(hub: HubFixture, seed: int = 0, lineage: Lineage | None = None, **words: str) -> int:
    """A release with these words of its publisher."""
    data, blobs = small_release(seed=seed)
    manifest = replace(decode_manifest(data), lineage=lineage or Lineage(recipe="examples/digits@ab", seed=7))
    detail = encode_detail(replace(detail_of(manifest), **words))
    blob = Blob(sha256=hashlib.sha256(detail).hexdigest(), size=len(detail))
    for sha256, content in {**blobs, blob.sha256: detail}.items():
        hub.hub.objects.put_new(f"blobs/{sha256}", content)
    manifest = without_detail(manifest, blob)
    return hub.hub.publisher.publish_release("digits", encode_manifest(manifest), actor="test").number


def text(hub: HubFixture, number: int) -> str:
    return card(gather(hub.hub, "digits", number), at=hub.clock())


def test_what_nobody_said_or_measured_is_called_unknown(hub: HubFixture) -> None:
    hub.model()
    found = text(hub, hub.release("digits"))
    assert found.startswith("# Model card: digits, release 1\n")
    for words in (
        "Unknown: nobody said the intended use of this release",
        "Unknown: nobody said the limits of this release",
        "Snapshot: none is named",
        "training inputs that were summed up: unknown",
        "Unknown: no device has measured it yet",
        "None: no rollout has led to this release",
        "Recipe: unknown",
        "Tools: unknown",
        "It has no drift sketch",
        "Unknown: no variant has a calibrated confidence",
    ):
        assert words in found, words


def test_figures_come_with_their_intervals_and_the_gate_with_its_terms(hub: HubFixture) -> None:
    hub.model()
    found = text(hub, hub.release("digits"))
    assert "| litert-int8 | edge | accuracy | 0.95 | 0.93 to 0.97 | 0.955 | 0.5 |" in found
    assert "never calibrated on: 200" in found and "10: 0, 1, 2" in found
    assert "judged by the measured point: a drop of at most 1 points; latency at most 2 times" in found
    assert "- litert-int8: keeps all of them" in found
    assert r"x FP32 \[-1, 64]" in found


def test_words_and_lineage_are_those_of_the_release_or_of_one_before_it(hub: HubFixture) -> None:
    hub.model()
    with hub.hub.session() as session:
        session.add(
            Snapshot(id="ab" * 32, model="digits", path="p", samples=1200, labelled=300, size_bytes=1, created_at=0.0)
        )
    origin = Lineage(snapshot="ab" * 32, recipe="digits@ab", parents=("release 1",), seed=7, tools={"torch": "2"})
    first = publish(hub, 1, lineage=origin, intended_use="Sorts letters.\n\nNot for cheques.", limits="Blurred photos.")
    second = publish(hub, 2, lineage=Lineage(snapshot="cd" * 32))
    found = text(hub, first)
    assert "Sorts letters.\n\nNot for cheques." in found and "Blurred photos." in found and "Said of" not in found
    assert "1,200 samples, 300 of them labelled" in found and "Made from: release 1" in found and "torch 2" in found
    later = text(hub, second)
    assert "Sorts letters." in later and f"Said of release {first}; this one says nothing of its own." in later
    assert "the hub no longer has it" in later


def test_a_rollout_and_a_withdrawal_are_told(hub: HubFixture) -> None:
    hub.model()
    numbers = [hub.release("digits", seed=seed) for seed in (1, 2)]
    with hub.hub.session() as session:
        session.add(
            RolloutRow(
                id="r-1",
                model="digits",
                channel="stable",
                release=2,
                from_release=1,
                state="halted",
                salt="s",
                plan={},
                progress={},
                reason=EVIL,
                created_at=hub.clock(),
                updated_at=0.0,
                ended_at=1.0,
            )
        )
    hub.hub.publisher.withdraw("digits", 2, "wrong labels", actor="test")
    found = text(hub, numbers[1])
    assert "| r-1 | stable | 1 | halted |" in found and "It was withdrawn" in found and "- Status: withdrawn" in found
    assert "None: no rollout" in text(hub, numbers[0])


def test_nothing_that_somebody_wrote_becomes_markup(hub: HubFixture) -> None:
    hub.model()
    lineage = Lineage(recipe=EVIL, parents=(EVIL,), snapshot=EVIL, tools={EVIL: EVIL}, extra={EVIL: [EVIL]})
    number = publish(hub, lineage=lineage, intended_use=EVIL, limits="1. one\n\n- two\n\n=== \n\n# three")
    with hub.hub.session() as session:
        session.get_one(Release, ("digits", number)).note = EVIL
    found = text(hub, number)
    assert "<" not in found and "\x1b" not in found and "\u202e" not in found
    assert "](" not in found.replace(r"\](", "") and "\n# heading" not in found
    heads = [line for line in found.splitlines() if line.startswith("#")]
    assert len(heads) == 10, heads
    assert r"1\. one" in found and r"\- two" in found and r"\===" in found and r"\# three" in found
    tables = [line for line in found.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in tables} == {13}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.b", r"https\://a.b"),
        ("WWW.a.b", r"WWW\.a.b"),
        ("a@b.c", r"a\@b.c"),
        ("a: b", "a: b"),
        ("a|b", r"a\|b"),
        ("*x*", r"\*x\*"),
        ("a\nb", "a b"),
        ("12) x", r"12\) x"),
        ("1.5", r"1\.5"),
        ("x-1", "x-1"),
    ],
)
def test_text_is_shown_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_what_cannot_be_read_is_said_and_a_reserved_number_has_no_card(hub: HubFixture) -> None:
    hub.model()
    number = publish(hub)
    detail = decode_manifest(_row(hub, number).manifest).detail
    assert isinstance(detail, Blob)
    hub.hub.objects.delete(f"blobs/{detail.sha256}")
    assert "Not to be read: the compiler's notes: the hub's object store does not have it" in text(hub, number)
    with pytest.raises(ConflictError, match="has no manifest yet"):
        gather(hub.hub, "digits", hub.hub.publisher.reserve("digits", actor="test"))


def _row(hub: HubFixture, number: int) -> Any:
    with hub.hub.reading() as session:
        return session.get_one(Release, ("digits", number))


def test_viewers_read_it_by_the_api_and_on_the_dashboard(hub: HubFixture) -> None:
    hub.model()
    number = publish(hub, intended_use="<b>Sorts letters.")
    viewer = hub.token(role="viewer")
    answer = hub.client.get(f"/api/v1/models/digits/releases/{number}/card", headers=hub.auth(viewer))
    assert answer.status_code == 200 and "Sorts letters." in answer.json()["markdown"]
    person = Person(hub, viewer)
    page = person.open(f"/models/digits/releases/{number}/card")
    assert "## Intended use" in text_of(page.text) and "<b>Sorts" not in page.text
    file = person.open(f"/models/digits/releases/{number}/card.md")
    assert file.text == answer.json()["markdown"] and file.headers["content-type"].startswith("text/markdown")
    assert file.headers["content-disposition"] == f"attachment; filename*=UTF-8''digits-{number}.md"
    assert f"/models/digits/releases/{number}/card" in person.open("/models/digits").text
    assert person.open("/models/digits/releases/99/card").status_code == 404


def test_brackets_in_a_tensors_name_are_escaped_once() -> None:
    assert _tensors([Tensor(name="x[a]", datatype="FP32", shape=(-1, 2))]) == r"x\[a\] FP32 \[-1, 2]"
