"""A release of an existing model keeps its interface and encoder, taken from a folder or from the hub, and says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloud_hub.app import create_app
from fleet.protocol.interface import interface_of
from model_compiler.errors import CompilerError, SourceError
from model_compiler.importing import import_release
from model_compiler.inputs import existing_model
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.report.document import CompileReport
from tests.support.any_model import onnx_file
from tests.support.commands import call
from tests.support.hub import HubFixture, make_hub
from tests.support.server import serving

X = np.random.default_rng(3).normal(size=(24, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    """A release of a regression from four readings to their sum."""
    folder = tmp_path_factory.mktemp("sums")
    nodes = [("ReduceSum", ["readings", "axis"], ["total"], {})]
    file = onnx_file(nodes, {"readings": ("FP32", ["n", 4])}, {"total": ("FP32", ["n", 1])}, {"axis": np.array([1])})
    (folder / "m.onnx").write_bytes(file)
    data = make_dataset({"readings": X}, X.sum(1, keepdims=True), "v")
    return import_release(
        folder / "m.onnx", CompileRequest(calibration=data, validation=data, targets=(), out=folder / "release")
    )


@pytest.fixture(scope="module")
def hub(made: CompileReport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubFixture, str]]:
    """A hub with the release as the first of `sums`, and an empty model; and its address."""
    fixture = make_hub(tmp_path_factory.mktemp("hub"))
    fixture.model("sums"), fixture.model("empty")
    for blob in (made.out / "blobs").iterdir():
        fixture.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    manifest = (made.out / "manifest.json").read_bytes()
    fixture.hub.publisher.publish_release("sums", manifest, actor="t")
    with serving(create_app(fixture.hub)) as (address, _):
        yield fixture, f"http://{address}"


@pytest.fixture
def logged_in(hub: tuple[HubFixture, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubFixture:
    fixture, address = hub
    monkeypatch.setenv("EDGELOOP_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("EDGELOOP_HUB", address)
    monkeypatch.setenv("EDGELOOP_TOKEN", fixture.token(role="viewer"))
    return fixture


def test_hub_and_folder_give_the_same_and_say_what(made: CompileReport, logged_in: HubFixture) -> None:
    here, there = existing_model.found(made.out, "", None), existing_model.found(None, "sums", None)
    assert here.interface == there.interface == interface_of(made.manifest)
    assert here.encoder == there.encoder is not None
    for kept, source in ((here, str(made.out)), (there, "release 1 of sums")):
        assert kept.said.startswith(f"kept from {source}: inputs readings FP32 [-1, 4]; outputs total FP32 [-1, 1]")
        assert made.manifest.sketch is not None and f"sketch {made.manifest.sketch.sketch_id[:12]}" in kept.said


def test_a_model_without_a_release_keeps_nothing_and_says_so(logged_in: HubFixture) -> None:
    kept = existing_model.found(None, "empty", None)
    assert (kept.interface, kept.encoder) == (None, None) and "has no release yet" in kept.said


@pytest.mark.parametrize("name", ["nobody", "--help"])
def test_what_the_hub_refuses_is_said_in_its_words_and_exit_code(logged_in: HubFixture, name: str) -> None:
    with pytest.raises(CompilerError, match=f"the hub: no model '{name}'") as refused:
        existing_model.found(None, name, None)
    assert refused.value.exit_code == 3 and "fleet model create" in refused.value.hint


def test_without_a_login_it_says_how(logged_in: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELOOP_HUB")
    monkeypatch.delenv("EDGELOOP_TOKEN")
    with pytest.raises(CompilerError, match="not logged in") as refused:
        existing_model.found(None, "sums", None)
    assert refused.value.exit_code == 4 and "fleet login" in refused.value.hint


def test_two_sources_are_one_too_many(made: CompileReport) -> None:
    with pytest.raises(SourceError, match="--extends and --model"):
        existing_model.found(made.out, "sums", None)


def test_an_import_for_a_model_of_the_hub_is_one_that_it_publishes(
    made: CompileReport, logged_in: HubFixture, tmp_path: Path
) -> None:
    """Another network for the same model, whose file and data have names of their own."""
    nodes = [("ReduceSum", ["x", "axis"], ["y"], {}), ("Mul", ["y", "one"], ["z"], {})]
    constants = {"axis": np.array([1]), "one": np.float32(1).reshape(())}
    file = onnx_file(nodes, {"x": ("FP32", ["n", 4])}, {"z": ("FP32", ["n", 1])}, constants)
    (tmp_path / "m.onnx").write_bytes(file)
    np.savez(tmp_path / "v.npz", x=X + 1, y=(X + 1).sum(1, keepdims=True))
    login = {name: value for name, value in os.environ.items() if name.startswith("EDGELOOP_")}
    asked = ("--validation", tmp_path / "v.npz", "--model", "sums", "--out", tmp_path / "r")
    done = call("model-compiler", "import", tmp_path / "m.onnx", *asked, **login)
    assert done.returncode == 0, done.stderr
    assert "kept from release 1 of sums" in done.stderr
    for blob in (tmp_path / "r" / "blobs").iterdir():
        logged_in.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    manifest = (tmp_path / "r" / "manifest.json").read_bytes()
    assert logged_in.hub.publisher.publish_release("sums", manifest, actor="t").number == 2
