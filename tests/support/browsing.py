"""A really running hub and a real browser, for tests of the dashboard."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from cloud_hub.app import create_app
from cloud_hub.context import Hub
from tests.support.require import require

AXE = Path(__file__).parents[1] / "cloud_hub" / "dashboard" / "axe" / "axe.min.js"
LEVEL_AA = '{runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"]}'
BERLIN = "Europe/Berlin"
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


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a hub's application on loopback, without its services."""
    with serving_app(create_app(hub)) as address:
        yield address


@contextmanager
def serving_app(app: FastAPI) -> Iterator[str]:
    """The address of an application on loopback, without its services."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server has started waits
        config = uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@contextmanager
def started_browser() -> Iterator[Any]:
    """Chromium, that asks nobody on its own."""
    executable = require("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def visit(
    browser: Any, address: str, *, token: str = "", width: int = 1400, scheme: str = "light", zone: str = BERLIN
) -> Iterator[Any]:
    """A page of a browser of its own, logged in where there is a token; nothing may go wrong on it."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, timezone_id=zone, locale="en-GB"
    )
    page, problems = context.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith((address, "data:")) else problems.append(sent.url))
    if token:
        page.goto(address + "/login")
        page.get_by_label("Operator token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(address + "/")
    yield page
    context.close()
    assert problems == []


def shows(locator: Any, *, times: int = 1) -> None:
    """Wait until a page shows what is looked for that often: a click does not wait for the page that it leads to."""
    from playwright.sync_api import expect

    expect(locator).to_have_count(times)


def keep_picture(page: Any, name: str) -> None:
    if directory := os.environ.get("EDGELOOP_SCREENSHOTS"):
        page.screenshot(path=str(Path(directory) / f"{name}.png"), full_page=True)


def unreadable(page: Any, rules: str = LEVEL_AA) -> list[str]:
    """The faults that axe finds in a page, and the pixels by which it is wider than its window; empty where all is
    well.
    """
    page.evaluate(AXE.read_text())
    told = page.evaluate(f"axe.run(document, {rules})")["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    found = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in told]
    return found + ([f"{wide} px wider than the window"] if wide > 0 else [])
