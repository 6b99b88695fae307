"""The pages in a real browser against a really running hub: no console error, no request to anywhere else, readable by
everybody, and as wide as the window."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from sqlmodel import select

from cloud_hub.app import create_app
from cloud_hub.store.tables import Job
from tests.support import shown_fleet
from tests.support.browsing import LEVEL_AA, keep_picture, serving, shows, started_browser, unreadable, visit
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_fleet import HALTED, MODEL, OTHER, RUNNING, name_of

pytestmark = pytest.mark.browser

PAGES = {
    "overview": "/",
    "devices": "/devices",
    "device": f"/devices/{name_of(3)}",
    "rollouts": "/rollouts",
    "rollout": f"/rollouts/{HALTED}",
    "models": "/models",
    "model": f"/models/{MODEL}",
    "samples": f"/models/{MODEL}/samples",
    "drift": "/drift",
    "jobs": "/jobs",
    "events": "/events",
    "event": f"/events/{shown_fleet.EVENT}",
    "audit": "/audit",
    "access": "/access",
    "card": f"/models/{MODEL}/releases/1/card",
    "add a device": "/act/devices",
    "make a token": "/act/tokens",
    "begin a rollout": "/act/rollouts",
    "pause a rollout": f"/act/rollouts/{RUNNING}/pause",
    "retrain": f"/act/models/{MODEL}/retrain",
    "withdraw": f"/act/models/{MODEL}/releases/1/withdraw",
    "label": f"/act/models/{MODEL}/label",
    "revoke": f"/act/devices/{name_of(3)}/revoke",
    "diagnose": f"/act/devices/{name_of(3)}/commands/diagnose",
}
BY_LOOKS = '{runOnly: {type: "rule", values: ["color-contrast", "scrollable-region-focusable"]}}'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    hub = make_hub(tmp_path_factory.mktemp("fleet"), prices={"currency": "EUR", "per_1000_calls": 0.4})
    shown_fleet.lay(hub)
    return hub


@pytest.fixture(scope="module")
def address(fleet: HubFixture) -> Iterator[str]:
    with serving(fleet.hub) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as opened:
        yield opened


@pytest.mark.parametrize(("scheme", "width", "rules"), [("light", 1400, LEVEL_AA), ("dark", 390, BY_LOOKS)])
def test_every_page_can_be_read_by_everybody_and_fits_its_window(
    browser: Any, address: str, fleet: HubFixture, scheme: str, width: int, rules: str
) -> None:
    found = {}
    with visit(browser, address, token=fleet.admin_token, width=width, scheme=scheme) as page:
        with fleet.hub.reading() as session:
            job = session.exec(select(Job.id)).first()
        for name, path in {**PAGES, "job": f"/jobs/{job}"}.items():
            answer = page.goto(address + path)
            found[name] = [] if answer.ok else [f"status {answer.status}"]
            found[name] += unreadable(page, rules)
            keep_picture(page, f"{name}-{scheme}-{width}")
    assert {name: faults for name, faults in found.items() if faults} == {} and len(found) > len(PAGES)


def test_an_operator_finds_out_what_is_wrong_and_why(browser: Any, address: str, fleet: HubFixture) -> None:
    with visit(browser, address, token=fleet.admin_token) as page:
        page.get_by_text("What is wrong").wait_for()
        page.get_by_role("link", name=f"2 devices: selftest-failed ({MODEL})").click()
        page.get_by_role("heading", name="2 devices").wait_for()
        page.get_by_role("link", name=name_of(3)).click()
        page.get_by_text("3 of 20 vectors differ by more than the tolerance").first.wait_for()
        page.get_by_role("heading", name="Its last month").wait_for()
        page.get_by_role("img", name="Requests of 30 days").locator("rect").nth(30).wait_for()
        page.get_by_role("img", name="Hottest sensor: temperature 48 °C to 61 °C").locator("polyline").first.wait_for()
        page.get_by_role("link", name="its rollout").click()
        page.get_by_text("Why it halted:").wait_for()
        shows(page.get_by_role("link", name="disk-full"))
        page.get_by_role("link", name="Drift").click()
        page.get_by_text("inputs have moved on 10 of 60 devices, in site=berlin").wait_for()
        shows(page.get_by_text("brightness: 0.52 → 0.31"))
        page.get_by_role("link", name="Jobs").click()
        shows(page.get_by_text("the gate refuses it: class 4 loses 6.1 points"), times=2)
        page.get_by_role("link", name="Access").click()
        page.get_by_role("link", name=name_of(33)).wait_for()
        page.get_by_role("link", name="Overview").click()
        page.get_by_text(re.compile(r"In all \d+\.\d\d EUR")).wait_for()


def test_a_search_by_the_keyboard_alone(browser: Any, address: str, fleet: HubFixture) -> None:
    with visit(browser, address, token=fleet.admin_token) as page:
        page.goto(address + "/devices")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("0021")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="1 device").wait_for()
        shows(page.get_by_text("set <the> clock"))


def test_a_page_renews_itself_and_leaves_alone_what_a_person_has_opened(
    browser: Any, address: str, fleet: HubFixture
) -> None:
    with visit(browser, address, token=fleet.admin_token, zone="America/New_York") as page:
        page.goto(f"{address}/models/{OTHER}")
        page.get_by_text("In words").click()
        fleet.hub.publisher.withdraw(OTHER, 1, "labels swapped", actor="test")
        page.get_by_text("withdrawn", exact=True).first.wait_for()
        assert page.locator("details.words").get_attribute("open") is not None
        page.locator("#connection").get_by_text("live", exact=True).wait_for()
        shows(page.get_by_text("days of UTC"))
        marks = page.locator("text.across").all()
        days = [int(mark.get_attribute("data-at")[8:10]) for mark in marks]
        assert days and [int(mark.text_content().split()[0]) for mark in marks] == days
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(re.compile("/login$"))


def test_drift_is_plotted_over_time(browser: Any, busy_hub: HubFixture) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(busy_hub.hub), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        with visit(browser, f"http://127.0.0.1:{listener.getsockname()[1]}", token=busy_hub.admin_token) as page:
            page.get_by_role("link", name="Drift").click()
            page.locator("#drift canvas").wait_for()
        server.should_exit = True
        thread.join(10)


def test_the_api_page_shows_every_noun_and_asks_nobody_else(browser: Any, address: str) -> None:
    with visit(browser, address) as page:
        page.goto(address + "/docs")
        page.get_by_role("heading", name="Edgeloop hub").wait_for()
        page.locator("#operations-tag-rollouts").wait_for()
        page.locator("[id^=operations-tokens-create]").first.locator("button").first.click()
        page.get_by_role("heading", name="Request body").first.wait_for()
