"""A hub with something of everything that a backup holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cloud_hub import main
from cloud_hub.store.tables import Device, SampleRow, Snapshot
from tests.support.hub import HubFixture


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `cloud-hub …` in this process; gives exit code, standard output and standard error."""
    monkeypatch.setenv("EDGELOOP_PASSPHRASE", "secret")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cloud-hub", *map(str, arguments)])
        code = 0
        try:
            main.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def fill(made: HubFixture) -> None:
    """A published release on a channel, a device, a sample, a snapshot, and a blob that nothing names."""
    made.model()
    number = made.release()
    made.channel()
    made.hub.objects.put("samples/model=digits/day=1/a.parquet", b"a partition")
    made.hub.objects.put("snapshots/digits/s.parquet", b"a snapshot")
    made.hub.objects.put("blobs/" + "f" * 64, b"named by nothing")
    with made.hub.session() as session:
        session.add(device("cam-1"))
        session.add(
            SampleRow(
                id="s-1",
                model="digits",
                device_id="cam-1",
                release=number,
                variant="int8",
                reason="random",
                at=1.0,
                received_at=2.0,
                confidence=0.1 + 0.2,
                prediction=3,
                label={"ä": [1, None]},
                path="samples/model=digits/day=1/a.parquet",
            )
        )
        session.add(
            Snapshot(
                id="x",
                model="digits",
                path="snapshots/digits/s.parquet",
                samples=1,
                labelled=1,
                size_bytes=10,
                created_at=3.0,
            )
        )


def device(name: str, **changes: Any) -> Device:
    fields: dict[str, Any] = {
        "id": name,
        "public_key": "k",
        "key_fingerprint": name,
        "certificate": "c",
        "certificate_serial": "1",
        "certificate_expires_at": 9.0,
        "channel": "stable",
        "enrolled_at": 1.0,
        "command_counter": 7,
        "online": True,
    }
    return Device(**{**fields, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
