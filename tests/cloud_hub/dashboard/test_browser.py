"""The page in a real browser against a really running hub: no console error, no request to anywhere else."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from cloud_hub.app import create_app
from tests.support.hub import HubFixture
from tests.support.require import require

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture
def address(busy_hub: HubFixture) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(busy_hub.hub), log_config=None, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def browser() -> Iterator[object]:
    executable = require("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_logs_in_and_sees_the_fleet(browser, address: str, busy_hub: HubFixture, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(address) else elsewhere.append(request.url))

    page.goto(address + "/")
    page.get_by_label("Operator token").fill(busy_hub.admin_token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Devices").wait_for()
    assert page.get_by_text("kiosk-1").count() == 1
    page.locator("#drift canvas").wait_for()
    # The page renews itself: a change in the hub shows without a reload.
    busy_hub.hub.publisher.withdraw("digits", 3, "labels swapped", actor="test")
    page.get_by_text("withdrawn", exact=True).wait_for()
    assert page.locator("#connection").inner_text() == "live"
    if directory := os.environ.get("EDGELOOP_SCREENSHOTS"):
        page.screenshot(path=str(Path(directory) / f"dashboard-{scheme}.png"), full_page=True)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(re.compile("/login$"))
    if directory := os.environ.get("EDGELOOP_SCREENSHOTS"):
        page.screenshot(path=str(Path(directory) / f"login-{scheme}.png"))
    context.close()
    assert problems == []
    assert elsewhere == []


def test_the_api_page_shows_every_noun_and_asks_nobody_else(browser, address: str) -> None:
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    problems: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else elsewhere.append(request.url)
    )
    page.goto(address + "/docs")
    page.get_by_role("heading", name="Edgeloop hub").wait_for()
    page.locator("#operations-tag-rollouts").wait_for()
    page.locator("[id^=operations-tokens-create]").first.locator("button").first.click()
    page.get_by_role("heading", name="Request body").first.wait_for()
    assert problems == [] and elsewhere == []
