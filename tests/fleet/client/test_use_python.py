"""`docs/how-to/use-python.md` runs as it stands, against a hub over HTTP."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlmodel import Session

from cloud_hub.app import create_app
from cloud_hub.store.tables import Device, Job
from fleet.client import Hub
from fleet.errors import NotFoundError, UsageError
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import HubFixture, make_hub
from tests.support.server import serving

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "use-python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    made = make_hub(tmp_path)
    made.client.post("/api/v1/models", json={"name": "digits"}, headers=made.auth())
    made.channel("stable")
    add_device(made, "kiosk-7")
    with made.hub.session() as session:
        _ill(session, made.clock())
    return made


def _ill(session: Session, now: float) -> None:
    device = session.get_one(Device, "kiosk-7")
    device.info, device.last_seen_at = (
        {"agent": "1", "channel": "stable", "problem": "disk-full", "hint": "make room"},
        now,
    )
    device.vitals = {"at": now, "celsius": 91.0}
    session.add(
        Job(id="j-1", kind="retrain", model="digits", state="failed", created_at=now, payload={"hyper": {"batch": 8}})
    )


def test_the_page_runs_as_it_stands(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(create_app(hub.hub)) as (address, _):
        monkeypatch.setenv("EDGELOOP_HUB", f"http://{address}")
        monkeypatch.setenv("EDGELOOP_TOKEN", hub.admin_token)
        monkeypatch.delenv("EDGELOOP_CA", raising=False)
        space: dict[str, object] = {}
        for block in BLOCKS:
            exec(block, space)
    said = capsys.readouterr().out
    assert "it has a problem: disk-full" in said and "it is hot: 91 °C" in said and "('kiosk-7', 91.0)" in said
    assert "'run': 'j-1'" in said and "'batch': 8.0" in said and "no release 99 of 'digits'" in said
    assert re.search(r"^operator:\S+ digits", said, re.MULTILINE)
    labels = hub.client.get("/api/v1/devices/kiosk-7", headers=hub.auth()).json()["labels"]
    assert labels["site"] == "berlin"


def test_an_address_or_a_file_that_is_none_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an address"):
        Hub("hub.example", "t")
    with pytest.raises(NotFoundError, match="no CA file"):
        Hub("https://hub.example", "t", ca=str(tmp_path / "none.pem"))
