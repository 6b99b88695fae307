"""A hub is restored to an older day while its devices are ahead: all follow on, and who was revoked stays out."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.protocol.manifest import encode_manifest
from tests.e2e.test_simulate import environment_of
from tests.support import models
from tests.support.agent_process import running
from tests.support.hub_process import ROOT
from tests.support.operated_hub import OperatedHub, command, until
from tests.support.size import sized

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # four starts of a hub

SIMULATED = sized(8, 100)
ELSEWHERE = ("journal", "broker")  # what a disk that is put back does not hold
FOLLOW_S = 120.0  # from the start of the restored hub until every device runs a release that is published then


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[OperatedHub]:
    hub = OperatedHub(tmp_path)
    hub.start()
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop(signal.SIGTERM)


class Days:
    """The operator's acts before the backup, after it, and after the restore."""

    def __init__(self, hub: OperatedHub, folder: Path) -> None:
        self.hub = hub
        self._manifest = encode_manifest(
            models.release(folder, data=models.litert_bytes("fp32"), runtime="litert").manifest
        )
        hub.call("POST", "/api/v1/models", {"name": "tiny"})
        for path in folder.iterdir():
            hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())

    def promote(self) -> int:
        """Publish a release and give it to the whole channel; its number."""
        number = int(self.hub.call("POST", "/api/v1/models/tiny/releases", self._manifest)["number"])
        entry = {"release": number, "probation": {"seconds": 1, "requests": 1}}
        self.hub.call("PUT", "/api/v1/channels/stable/models/tiny", entry)
        return number

    def publish_more(self, times: int) -> None:
        """Change the channel, so that its versions rise."""
        for number in range(times):
            self.hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": 10 + number % 2}})

    def running(self, release: int) -> set[str]:
        """The devices that say they run a release."""
        shown = self.hub.call("GET", "/api/v1/devices?limit=1000")["items"]
        return {one["id"] for one in shown if [model["active"] for model in one["models"]] == [release]}

    def revoked(self) -> set[str]:
        """The devices that are kept out."""
        return {row[0] for row in self.hub.rows("SELECT id FROM device WHERE revoked_at IS NOT NULL")}

    def lifts(self) -> bool:
        """Tell whether the hub has risen above what devices have shown."""
        return bool(self.hub.rows("SELECT 1 FROM auditentry WHERE action = 'trust.lift'"))

    def records(self) -> list[tuple[str, int, int]]:
        """Of each device's spool: how many numbers are committed and not lost, and how many records there are."""
        return self.hub.rows(  # type: ignore[return-value]
            "SELECT c.device_id, c.committed - c.lost, (SELECT count(*) FROM (SELECT device_id, spool FROM deviceevent "
            "UNION ALL SELECT device_id, spool FROM window) r WHERE r.device_id = c.device_id AND r.spool = c.spool) "
            "FROM spoolcursor c"
        )


def enrol(hub: OperatedHub, directory: Path) -> None:
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    command("edge-agent", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(directory))


def end(hub: OperatedHub) -> None:
    """The hub dies, and its worker after it. The broker lives on."""
    hub.stop(signal.SIGKILL)
    until(lambda: is_alone(hub.directory / "hub.db"), "the database is closed")


def is_alone(database: Path) -> bool:
    """Tell whether nobody has the database open: only then it gives its log up."""
    with contextlib.closing(sqlite3.connect(database, timeout=0.0)) as connection:
        try:
            return connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
        except sqlite3.OperationalError:
            return False


def keep(hub: OperatedHub, way: str, folder: Path) -> None:
    """The state of today."""
    if way == "command":
        command("cloud-hub", "backup", str(hub.directory), str(folder), "--with-keys")
        return
    end(hub)
    shutil.copytree(hub.directory, folder, ignore=shutil.ignore_patterns(*ELSEWHERE))
    hub.start()


def put_back(hub: OperatedHub, way: str, folder: Path) -> None:
    """The state of that day in place of today's; the journal lies on a disk that lives."""
    end(hub)
    if way == "command":
        command("cloud-hub", "restore", str(folder), str(hub.directory), "--replace")
        return
    for path in hub.directory.iterdir():
        if path.name not in ELSEWHERE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(folder, hub.directory, dirs_exist_ok=True)


def lost_and_restored(days: Days, release: int, revoked: str, way: str, folder: Path) -> float:
    """From a day on which all run `release` to the next, and back, and on; seconds until all have followed."""
    hub = days.hub
    everybody = {one["id"] for one in hub.call("GET", "/api/v1/devices?limit=1000")["items"]} - days.revoked()
    until(lambda: days.running(release) == everybody, f"all run release {release}")
    keep(hub, way, folder)
    assert days.promote() == release + 1
    days.publish_more(5)
    until(lambda: days.running(release + 1) == everybody, "all run what is published after the backup")
    hub.call("POST", f"/api/v1/devices/{revoked}/revoke")
    put_back(hub, way, folder)
    begun = time.monotonic()
    hub.start()
    assert days.promote() == release + 2, "the release is forgotten, and its number is not"
    until(lambda: days.running(release + 2) >= everybody - {revoked}, f"all follow ({way})")
    return time.monotonic() - begun


def test_a_fleet_that_is_ahead_follows_within_two_minutes(hub: OperatedHub, tmp_path: Path) -> None:
    """Once by the commands, once by a disk that is put back, which no command knows of."""
    days = Days(hub, tmp_path / "blobs")
    days.promote()
    days.publish_more(1)
    enrol(hub, tmp_path / "device")
    fleet = subprocess.Popen(
        [
            *(sys.executable, "-m", "fleet.cli.main", "simulate", str(SIMULATED)),
            *("--for", "1h", "--dir", str(tmp_path / "simulated"), "--json"),
        ],
        env=environment_of(hub),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    everybody = {"cam-1", *(f"sim-{number:05}" for number in range(SIMULATED))}
    remaining, release = set(everybody), 1
    with fleet, running(tmp_path / "device", "--port", "0"):
        try:
            until(lambda: days.running(1) == everybody, "all have come")
            for way, revoked in (("command", "sim-00003"), ("disk", "sim-00004")):
                remaining = remaining - {revoked}
                took = lost_and_restored(days, release, revoked, way, tmp_path / way)
                release += 2
                assert took < FOLLOW_S
                print(f"{way}: all follow {took:.1f} s after the start of the restored hub")
                assert days.running(release) == remaining and days.revoked() == everybody - remaining
                assert days.lifts() == (way == "disk"), "`restore` rises by itself; else devices prove it"
        finally:
            fleet.send_signal(signal.SIGINT)
        assert json.loads(fleet.communicate(timeout=120)[0])["lost"] == 0, "no device gave a record up"
    kept = days.records()
    assert {device for device, *_ in kept} == everybody
    assert all(numbered == records for _, numbered, records in kept), "each number is one record, or counted as lost"
