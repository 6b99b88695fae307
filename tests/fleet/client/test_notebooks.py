"""The notebooks of `docs/notebooks` run from the first cell to the last, against a real hub and a device's store.

Their cells are plain Python, so that they run here without a kernel.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.app import create_app
from cloud_hub.samples import store
from cloud_hub.store.tables import Device
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array
from tests.cloud_hub.api.test_operator_api import add_device
from tests.edge_agent.test_local import install
from tests.support.hub import HubFixture, make_hub
from tests.support.server import serving

FOLDER = Path(__file__).parents[3] / "docs" / "notebooks"
NAMES = ("operate-a-hub", "infer-on-a-device")


def book(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))


def run(name: str, filled_in: dict[str, str] | None = None) -> None:
    """Its cells in turn, with what a person writes into them."""
    space: dict[str, object] = {"__name__": "__main__"}
    for cell in book(name)["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            for blank, written in (filled_in or {}).items():
                text = text.replace(blank, written)
            exec(compile(text, f"{name}.ipynb, {cell['id']}", "exec"), space)


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    made = make_hub(tmp_path)
    made.model("digits")
    made.release("digits")
    made.channel("stable")
    add_device(made, "kiosk-7")
    with made.hub.session() as session:
        device = session.get_one(Device, "kiosk-7")
        device.info = {"agent": "1", "channel": "stable", "problem": "disk-full", "hint": "make room"}
        device.last_seen_at = made.clock()
    rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    samples = [
        Sample(
            id=f"s-{number}",
            model="digits",
            release=1,
            variant="v",
            at=made.clock(),
            reason="uncertain",
            confidence=0.4,
            inputs=(to_array("x", row[None]),),
            outputs=(to_array("logits", np.eye(10, dtype=np.float32)[3:4]),),
            prediction=3,
        )
        for number, row in enumerate(rows)
    ]
    store.commit(made.hub, "kiosk-7", samples)
    return made


def test_every_notebook_is_tried_here_and_keeps_no_output() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    for name in NAMES:
        found = book(name)
        assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in found["cells"]]
        assert len(set(ids)) == len(ids)
        for cell in found["cells"]:
            text = "".join(cell["source"])
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
            for link in re.findall(r"\]\(([^)#]+)", text if cell["cell_type"] == "markdown" else ""):
                assert (FOLDER / link).exists(), link


def test_a_hub_is_operated(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(create_app(hub.hub)) as (address, _):
        monkeypatch.setenv("EDGELOOP_HUB", f"http://{address}")
        monkeypatch.setenv("EDGELOOP_TOKEN", hub.token(role="operator"))
        monkeypatch.delenv("EDGELOOP_CA", raising=False)
        run("operate-a-hub")
        assert "labelled" not in capsys.readouterr().out, "what a model said is no label"
        assert all(store.get(hub.hub, f"s-{number}").label is None for number in range(3))
        run("operate-a-hub", {"true = {}": "true = {sample.id: 3 for sample in ranked.items}"})
    said = capsys.readouterr().out
    assert "1 devices, 1 ill" in said and "kiosk-7; it has a problem: disk-full" in said
    assert "digits {'published': [1]}" in said and "stable version 1" in said
    assert (
        "s-0 is taken for 3" in said
        and "3 samples wait for a label" in said
        and "3 labelled" in said
        and "sample.label a notebook" in said
    )
    assert [store.get(hub.hub, f"s-{number}").label for number in range(3)] == [3, 3, 3]


def test_a_device_infers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, 1)
    for name, value in {"DIR": str(tmp_path), "MODEL": "tiny", "INPUT": "input", "WIDTH": "4"}.items():
        monkeypatch.setenv(f"EDGELOOP_{name}", value)
    run("infer-on-a-device")
    said = capsys.readouterr().out
    assert "release 1" in said and "class (0,) with confidence" in said and re.search(r"p50 \d+ µs", said)
    assert "input" in said.split("by release 1")[1].splitlines()[1]
