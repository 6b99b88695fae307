"""The cost of the fleet's traffic and the share of it that failed, whatever a model was or a device claims."""

from __future__ import annotations

from pathlib import Path

from cloud_hub.dashboard.views import traffic
from cloud_hub.dashboard.views.models import models_page
from cloud_hub.dashboard.views.overview import overview
from cloud_hub.ingest.traffic import count
from cloud_hub.store.tables import Traffic, WindowRow
from cloud_hub.store.windows import settled
from tests.support import large_fleet, shown_fleet
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_fleet import MODEL, OTHER

HOUR, GONE = 3600, "gone"


def had_requests(hub: HubFixture) -> None:
    """A model that was deleted since."""
    begins = int(hub.clock()) // HOUR * HOUR
    row = Traffic(begins=begins, model=GONE, release=1, requests=9, cloud=9)
    large_fleet.write(hub, Traffic, iter([row.model_dump()]))


def test_a_model_that_was_deleted_takes_no_page_along(hub: HubFixture) -> None:
    had_requests(hub)
    hub.client.post("/login", data={"token": hub.admin_token})
    for path in ("/", "/models"):
        answer = hub.client.get(path)
        assert (answer.status_code, GONE in answer.text) == (200, True), path
    assert traffic.traffic_view(hub.hub, 7).total == ""


def test_a_model_of_open_sizes_hides_no_other_models_cost(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, prices={"currency": "EUR", "per_1000_calls": 2.0, "per_gigabyte": 1.0})
    shown_fleet.lay(hub, 1)
    had_requests(hub)
    view = traffic.traffic_view(hub.hub, 7)
    assert {one.model: bool(one.cost) for one in view.models} == {MODEL: True, OTHER: True, GONE: False}
    assert not view.total.startswith("0.00") and view.total.endswith(" EUR without gone, whose sizes are open")


def test_a_device_that_claims_too_many_answers_hides_no_failures_of_others(hub: HubFixture) -> None:
    hub.model(MODEL)
    hub.release(MODEL)
    fields = {"model": MODEL, "release": 1, "started_at": hub.clock() - 60, "ended_at": hub.clock(), "spool": "s"}
    with hub.hub.session() as session:
        for seq, counters in enumerate(({"requests": 100, "edge": 60, "refused": 10}, {"requests": 1, "edge": 10**9})):
            session.add(WindowRow(device_id="d", seq=seq, body={"counters": counters}, **fields))
    count(hub.hub, settled(hub.hub.engine))
    assert ("failed or refused", "40 (10 refused)", "/models") in overview(hub.hub, {}).numbers
    assert [one.failed for one in models_page(hub.hub).models] == ["40 (10 refused)"]
