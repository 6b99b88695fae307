"""Many at once: one claim token enrols one device, one name goes to one; on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from sqlmodel import select

from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.store.tables import Device
from fleet.protocol.messages import EnrollRequest
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub

AT_ONCE = 6


def answers(hub: HubFixture, requests: list[EnrollRequest]) -> list[int]:
    client = hub.client
    with ThreadPoolExecutor(len(requests)) as pool:
        sent = pool.map(lambda one: client.post("/enroll", content=msgspec.json.encode(one)).status_code, requests)
        return sorted(sent)


def new_claim(hub: HubFixture) -> tuple[str, str]:
    with hub.hub.session() as session:
        text = create_token(session, Grant(kind="claim", channel="stable"), now=hub.clock(), pin="p").text
    return text.split(".")[1], text.split(".")[2]


def devices(hub: HubFixture) -> int:
    with hub.hub.reading() as session:
        return len(session.exec(select(Device)).all())


def test_one_token_one_device(tmp_path: Path, hub_database: str) -> None:
    hub = make_hub(tmp_path, database=hub_database)
    token, secret = new_claim(hub)
    requests = [EnrollRequest(token=token, secret=secret, csr=DeviceKey().csr()) for _ in range(AT_ONCE)]
    assert answers(hub, requests) == [200] + [409] * (AT_ONCE - 1)
    assert devices(hub) == 1
    hub.hub.engine.dispose()


def test_one_name_one_device(tmp_path: Path, hub_database: str) -> None:
    hub = make_hub(tmp_path, database=hub_database)
    requests = []
    for _ in range(AT_ONCE):
        token, secret = new_claim(hub)
        requests.append(EnrollRequest(token=token, secret=secret, csr=DeviceKey().csr(), name="kiosk"))
    assert answers(hub, requests) == [200] + [409] * (AT_ONCE - 1)
    assert devices(hub) == 1
    hub.hub.engine.dispose()


def test_the_same_request_many_times(tmp_path: Path, hub_database: str) -> None:
    hub = make_hub(tmp_path, database=hub_database)
    token, secret = new_claim(hub)
    request = EnrollRequest(token=token, secret=secret, csr=DeviceKey().csr(), name="kiosk")
    assert answers(hub, [request] * AT_ONCE) == [200] * AT_ONCE
    assert devices(hub) == 1
    hub.hub.engine.dispose()
