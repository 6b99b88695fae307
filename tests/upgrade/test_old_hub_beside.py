"""A hub of the version before runs on while a newer one migrates its database, and beside it until it is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.errors import InvalidError
from cloud_hub.ingest.commands import send_command
from cloud_hub.store.migrate import behind
from cloud_hub.store.tables import SpoolCursor
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.hub_process import HubProcess
from tests.support.hub_site import Device, Site, check_reports, enrol_at, made_site, reporting, until

pytestmark = pytest.mark.e2e
CODE = Path(__file__).parents[1] / "fixtures" / "0.2.0.dev0" / "hub.tar.xz"
LISTS = (
    "devices",
    "models",
    "channels",
    "rollouts",
    "jobs",
    "drift",
    "alarms",
    "snapshots",
    "events",
    "audit",
    "tokens",
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    with tarfile.open(CODE) as packed:
        for member in packed:
            packed.extract(member, code)
    return code


class Asking:
    """Asks a hub again and again from a thread; `wrong` is what it heard that was not well."""

    def __init__(self, hub: HubProcess) -> None:
        self._hub, self._stop = hub, threading.Event()
        self.asked, self.wrong = 0, list[str]()

    def __enter__(self) -> Asking:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                status, told = self._hub.get("/readyz")
                self.wrong += [] if status == 200 else [str(told)]
            except OSError as error:
                self.wrong.append(str(error))
            self.asked += 1


def lists(hub: HubProcess, token: str) -> dict[str, Any]:
    return {name: hub.call("GET", f"/api/v1/{name}", token) for name in LISTS}


def release(hub: HubProcess, token: str, folder: Path, **changes: Any) -> int:
    """Publish a release of the model `tiny`; its number."""
    made = models.release(folder, runtime="litert", **changes)
    for blob in folder.iterdir():
        hub.call("PUT", f"/api/v1/blobs/{blob.name}", token, blob.read_bytes())
    number = hub.call("POST", "/api/v1/models/tiny/releases", token, encode_manifest(made.manifest))["number"]
    return int(number)


def roll_out(maker: HubProcess, other: HubProcess, token: str, folder: Path) -> None:
    """Give the orders of one rollout to one hub and to the other in turns; both say the same of it."""
    maker.call("POST", "/api/v1/models", token, {"name": "tiny"})
    first = release(maker, token, folder / "first", data=models.litert_bytes("fp32"))
    second = release(other, token, folder / "second", data=models.litert_bytes("int8"), tolerance=0.2)
    maker.call("PUT", "/api/v1/channels/stable/models/tiny", token, {"release": first})
    body = {"model": "tiny", "release": second, "channel": "stable", "stages": [50, 100], "soak_s": 3600.0}
    rollout = maker.call("POST", "/api/v1/rollouts", token, {**body, "guard": {"evidence": "install"}})["id"]
    for hub, order, state in (
        (other, "pause", "paused"),
        (maker, "resume", "running"),
        (other, "abort", "aborted"),
    ):
        hub.call("POST", f"/api/v1/rollouts/{rollout}/{order}", token, {"reason": "a test"})
        assert [one.call("GET", f"/api/v1/rollouts/{rollout}", token)["state"] for one in (maker, other)] == [state] * 2


def log_is_clean(hub: HubProcess) -> bool:
    return "Traceback" not in hub.log()


def test_a_newer_hub_comes_beside_an_older_one_and_takes_its_place(tmp_path: Path, old: Path) -> None:
    """Devices report and are commanded all the while; both hubs answer; what one does the other shows."""

    async def scenario(site: Site, stack: contextlib.ExitStack) -> list[Device]:
        before = await asyncio.to_thread(stack.enter_context, site.serve("one", old))
        assert behind(site.hub.engine), "it is the older database"
        before.call("POST", "/api/v1/channels", site.admin, {"name": "stable"})
        devices = [
            Device(tmp_path / name, site.hub, name, await asyncio.to_thread(enrol_at, before, site.admin, name))
            for name in ("cam-0", "cam-1", "cam-2", "cam-3")
        ]

        async def heard_anew() -> None:
            had = [device.spool.base for device in devices]
            await until(lambda: all(d.spool.base > b for d, b in zip(devices, had, strict=True)), "all are heard")

        async with reporting(devices):
            await heard_anew()
            with Asking(before) as asking:
                after = await asyncio.to_thread(stack.enter_context, site.serve("two"))
            assert asking.asked and asking.wrong == []
            assert not behind(site.hub.engine), "the newer one has migrated"
            await until(lambda: site.shares() == [8, 8], "the two share the ingest")
            await heard_anew()
            for maker, reader in ((before, after), (after, before)):
                name = f"of-{maker.port}"
                await asyncio.to_thread(maker.call, "POST", "/api/v1/models", site.admin, {"name": name})
                shown = await asyncio.to_thread(lists, reader, site.admin)
                assert name in str(shown["models"])
            await asyncio.to_thread(roll_out, before, after, site.admin, tmp_path)
            ids = [send_command(site.hub, device.name, "diagnose", {}) for device in devices]
            await until(lambda: [d.commands for d in devices] == [[one] for one in ids], "commands arrive, once")
            assert before.stop() == 0
            await until(lambda: site.shares() == [16], "the newer one has taken over")
            await heard_anew()
        assert log_is_clean(before) and log_is_clean(after)
        return devices

    with made_site(tmp_path, old) as site, contextlib.ExitStack() as stack:
        devices = asyncio.run(scenario(site, stack))
        assert check_reports(site, devices) > 20
        with site.hub.reading() as session:
            assert set(session.exec(select(SpoolCursor.lost))) == {0}


def test_an_older_hub_does_not_start_on_a_newer_database(tmp_path: Path, old: Path) -> None:
    with made_site(tmp_path) as site:
        late = HubProcess(site.base / "one", *site.arguments, code=old, **site.environment)
        assert late.process.wait(240) == InvalidError.exit_code
        assert "the database is of another version" in late.log() and "or a newer one" in late.log()
