"""Fields that no device needs leave the manifest, and come back for people."""

from __future__ import annotations

import pytest

from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.manifest import MANIFEST_LIMIT, Blob, decode_manifest, encode_manifest
from fleet.protocol.manifest_detail import decode_detail, detail_of, encode_detail, with_detail, without_detail
from tests.golden.examples import MANIFEST

DETAIL = Blob(sha256="7" * 64, size=70)


def test_a_manifest_comes_back_whole_with_its_detail() -> None:
    bare = decode_manifest(encode_manifest(without_detail(MANIFEST, DETAIL)))
    assert bare.detail == DETAIL and not bare.variants[0].deferral.curve and not bare.variants[0].verdict.notes
    assert with_detail(bare, decode_detail(encode_detail(detail_of(MANIFEST)))) == MANIFEST


def test_what_a_device_needs_stays() -> None:
    """The terms that it checks again, the runtime's choice, and when to ask the cloud."""
    bare, whole = without_detail(MANIFEST, DETAIL), MANIFEST
    assert bare.gate.broken_by(bare.variants[0].verdict) == whole.gate.broken_by(whole.variants[0].verdict)
    assert bare.variants[0].runtimes == whole.variants[0].runtimes
    mine, theirs = bare.variants[0].deferral, whole.variants[0].deferral
    assert (mine.threshold, mine.temperature, mine.target) == (theirs.threshold, theirs.temperature, theirs.target)


def test_a_device_fetches_neither_detail_nor_the_training_fit_but_a_release_holds_both() -> None:
    bare = without_detail(MANIFEST, DETAIL)
    variant = bare.variants[0]
    needed = bare.needed_for(variant)
    assert needed == (variant.blob, bare.selftest.blob, bare.sketch.encoder)
    assert set(bare.blobs()) - set(needed) == {DETAIL, bare.sketch.reference}
    assert DETAIL not in bare.blobs((variant,)) and bare.sketch.reference in bare.blobs((variant,))  # agents of 0.1


def test_a_release_of_0_1_has_no_detail() -> None:
    assert set(MANIFEST.blobs()) == set(MANIFEST.blobs(MANIFEST.variants))


def test_a_variant_that_the_detail_does_not_know_stays_as_it_is() -> None:
    assert with_detail(MANIFEST, decode_detail(b"{}")) == MANIFEST


def test_other_bytes_are_refused() -> None:
    with pytest.raises(MalformedError):
        decode_detail(b"[]")
    with pytest.raises(TooLargeError):
        decode_detail(b" " * (MANIFEST_LIMIT + 1))
