"""An operator's daily tasks, by mouse and by keyboard in a real browser: each task by its steps and its time.

A step is a click, a key or a field that is filled in; looking costs none. How long each took is printed with `-s`, and
kept beside the screenshots where EDGELOOP_SCREENSHOTS names a folder; only the steps are judged.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.samples import store
from cloud_hub.store.tables import AuditEntry, Device, Job, Model, OutboxCommand, Release, RolloutRow, SampleRow, Token
from fleet.protocol.channel import ModelEntry
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array
from tests.support.browsing import serving, started_browser
from tests.support.hub import HubFixture

pytestmark = pytest.mark.browser
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
LABELLED = 20


@pytest.fixture(scope="module")
def hub(shared_hub: HubFixture) -> HubFixture:
    """The busy hub, with something for every task to be done to."""
    shared_hub.release("digits")
    now = shared_hub.clock()
    with shared_hub.hub.session() as session:
        row = session.get_one(RolloutRow, "r-2")
        row.plan = {**row.plan, "policy": {"approval": True}}
        session.get_one(Model, "digits").recipe = "cloud_hub.training.models"
        session.add(Job(id="j-1", kind="retrain", model="digits", state="failed", error="no labels", created_at=now))
    shared_hub.model("letters")
    for _ in range(2):
        shared_hub.release("letters")
    shared_hub.hub.publisher.change_channel(
        "stable",
        lambda channel: replace(channel, models={**channel.models, "letters": ModelEntry(release=1)}),
        actor="test",
    )
    keep_samples(shared_hub)
    return shared_hub


def keep_samples(hub: HubFixture) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(LABELLED + 4):
        image = rng.normal(size=(1, 12, 12))
        sample = Sample(
            id=f"s{number:02}",
            model="digits",
            release=2,
            variant="v",
            at=hub.clock(),
            reason="uncertain",
            confidence=0.4,
            inputs=(to_array("x", image.astype(np.float32)),),
            prediction=3,
            outputs=(to_array("logits", np.eye(10, dtype=np.float32)[3:4]),),
        )
        samples.append(sample)
    store.commit(hub.hub, "kiosk-0", samples)


@pytest.fixture(scope="module")
def address(hub: HubFixture) -> Iterator[str]:
    with serving(hub.hub) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as opened:
        yield opened


class Operator:
    """Somebody at a browser, whose steps are counted; nothing may be wrong in its console."""

    def __init__(self, browser: Any, address: str, token: str, **context: Any) -> None:
        self.address, self.steps, self.tasks = address, 0, list[tuple[str, int, float]]()
        self.problems = list[str]()
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(f"{address}/login")
        self.page.get_by_label("Operator token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("heading", name="Overview").wait_for()

    @contextmanager
    def task(self, name: str, most: int) -> Iterator[None]:
        """A task that begins at whichever page the last one has ended on, and may take `most` steps."""
        self.steps, began = 0, time.perf_counter()
        yield
        self.tasks.append((name, self.steps, time.perf_counter() - began))
        assert self.steps <= most, f"{name} took {self.steps} steps"

    def go(self, *links: str) -> None:
        for link in links:
            self.steps += 1
            self.page.get_by_role("link", name=link, exact=True).first.click()

    def within(self, text: str, link: str) -> None:
        """Follow a link in the row of a table, or the block, that says `text`."""
        self.steps += 1
        self.page.locator("tr, .card").filter(has_text=text).get_by_role("link", name=link, exact=True).first.click()

    def fill(self, label: str, text: str) -> None:
        self.steps += 1
        self.page.get_by_label(label).fill(text)

    def choose(self, label: str, value: str) -> None:
        self.steps += 1
        self.page.get_by_label(label, exact=True).select_option(value)

    def send(self, button: str) -> None:
        self.steps += 1
        self.page.get_by_role("button", name=button).click()

    def press(self, key: str) -> None:
        self.steps += 1
        self.page.keyboard.press(key)

    def see(self, *texts: str) -> None:
        for text in texts:
            self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def keep(self, name: str) -> None:
        """A picture of the page, where somebody wants to look at it; and it is never wider than the window."""
        if directory := os.environ.get("EDGELOOP_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(directory) / f"{name}.png"), full_page=True)
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"


@pytest.fixture(scope="module")
def operator(browser: Any, address: str, hub: HubFixture) -> Operator:
    return Operator(browser, address, hub.admin_token, viewport=WIDE)


def rows(hub: HubFixture, statement: Any) -> list[Any]:
    with hub.hub.reading() as session:
        return list(session.exec(statement))


def test_the_tasks_of_a_day(operator: Operator, hub: HubFixture) -> None:
    one = operator
    with one.task("find the ill devices", 1):
        one.go("Devices")
        one.see("selftest-failed")
    with one.task("why is this one ill", 2):
        one.go("Devices", "kiosk-2")
        one.see("3 of 20 vectors")
    with one.task("which release runs where", 2):
        one.go("Models", "digits")
        one.see("default of stable")
    with one.task("what is rolling out", 1):
        one.go("Rollouts")
        one.see("running")
    with one.task("why did it halt", 1):
        one.go("Rollouts")
        one.see("only the old release was right on 14 of 15 pairs")
    with one.task("approve", 4):
        one.go("Rollouts")
        one.page.locator("#rollout-r-2").get_by_role("link").first.click()
        one.steps += 1
        one.go("Approve")
        one.send("Approve the rollout")
        one.see("approved")
    with one.task("promote with a reason", 5):
        one.go("Rollouts")
        one.page.locator("#rollout-r-2").get_by_role("link").first.click()
        one.steps += 1
        one.go("Promote")
        one.fill("Reason", "seen enough on the first half")
        one.keep("promote")
        one.send("Promote the rollout")
        one.see("seen enough on the first half")
    with one.task("pause, by keyboard", 4):
        one.go("Rollouts")
        one.page.locator("#rollout-r-2").get_by_role("link").first.click()
        one.page.get_by_role("link", name="Pause").focus()
        one.press("Enter")
        one.page.get_by_role("button", name="Pause the rollout").focus()
        one.press("Enter")
        one.see("paused")
    with one.task("abort", 4):
        one.go("Rollouts")
        one.page.locator("#rollout-r-2").get_by_role("link").first.click()
        one.steps += 1
        one.go("Abort")
        one.send("Abort the rollout")
        one.see("aborted")
    said = {row.action for row in rows(hub, select(AuditEntry).where(AuditEntry.subject == "r-2"))}
    assert said >= {"rollout.approve", "rollout.promote", "rollout.pause", "rollout.abort"}
    with one.task("is anything drifting, since when, where", 1):
        one.go("Drift")
        one.see("digits")
    with one.task("label twenty", 3 + LABELLED + 1):
        one.go("Models", "digits", "Label samples")
        one.page.locator("fieldset.sample:focus-within").wait_for()
        for number in range(LABELLED):
            one.press(str(number % 10))
        one.keep("label")
        one.press("Enter")
        one.page.wait_for_url("**/models/digits/samples")
    assert len(rows(hub, select(SampleRow).where(SampleRow.label != None))) == LABELLED  # noqa: E711
    with one.task("retrain", 4):
        one.go("Models", "digits", "Retrain")
        one.send("Start the retrain")
        one.page.wait_for_url("**/jobs/*")
    with one.task("which jobs failed", 1):
        one.go("Jobs")
        one.see("no labels")
    with one.task("withdraw a release", 5):
        one.go("Models", "digits")
        one.page.locator('a[href$="/releases/4/withdraw"]').click()
        one.steps += 1
        one.fill("Reason", "labels swapped")
        one.send("Withdraw it for ever")
        one.see("withdrawn")
    assert rows(hub, select(Release).where(Release.model == "digits", Release.number == 4))[0].status == "withdrawn"
    with one.task("revoke a device", 4):
        one.go("Devices", "kiosk-1", "Revoke")
        one.send("Revoke kiosk-1")
        one.see("revoked")
    assert rows(hub, select(Device).where(Device.id == "kiosk-1"))[0].revoked_at is not None
    with one.task("which certificates end soon", 2):
        one.go("Devices", "kiosk-0")
        one.see("Its certificate ends")
    with one.task("who did what yesterday", 1):
        one.go("Audit log")
        one.see("release.withdraw")
    with one.task("add a device", 4):
        one.go("Devices", "Add a device")
        one.fill("Its name", "kiosk-9")
        one.send("Make the command")
        one.see("edge-agent enroll")
        one.keep("add-a-device")
    claims = rows(hub, select(Token).where(Token.kind == "claim"))
    assert [(row.channel, row.note) for row in claims] == [("stable", "device kiosk-9")]
    report = "".join(f"{name:<42} {steps:>3} steps {seconds:6.2f} s\n" for name, steps, seconds in one.tasks)
    print("\n" + report)
    if directory := os.environ.get("EDGELOOP_SCREENSHOTS"):
        (Path(directory) / "tasks.txt").write_text(report)
    assert one.problems == []


def test_a_rollout_begins_after_its_plan_and_halts_by_mouse(operator: Operator, hub: HubFixture) -> None:
    one = operator
    with one.task("begin a rollout", 8):
        one.go("Models", "letters", "Roll out")
        one.choose("Channel", "stable")
        one.page.get_by_text("More", exact=True).click()
        one.choose("Evidence", "install")
        one.send("Show the plan")
        one.see("letters 1 → 2 on stable")
        one.keep("plan")
        one.send("Start this rollout")
        one.page.wait_for_url(re.compile("/rollouts/r-[0-9a-f]+$"))
        one.see("running")
    (row,) = rows(hub, select(RolloutRow).where(RolloutRow.model == "letters"))
    assert (row.release, row.from_release, row.state) == (2, 1, "running")


def test_a_double_click_makes_one_token_which_is_shown_once(operator: Operator, hub: HubFixture) -> None:
    one = operator
    with one.task("make a token", 6):
        one.go("Access", "New token")
        one.choose("For", "operator")
        one.choose("Role of a person", "viewer")
        one.fill("Note", "of the double click")
        one.steps += 1
        one.page.get_by_role("button", name="Make the token").dblclick()
        one.see("It is shown this once")
    assert len(rows(hub, select(Token).where(Token.note == "of the double click"))) == 1


def test_a_device_answers_on_a_page_of_its_own(operator: Operator, hub: HubFixture) -> None:
    one = operator
    with one.task("ask a device for its log", 4):
        one.go("Devices", "kiosk-0", "Logs")
        one.send("Ask for its logs")
        one.see("It is on its way")
    (command,) = rows(hub, select(OutboxCommand))
    assert (command.kind, command.args) == ("logs", {"lines": 100})


def test_it_fits_a_telephone_in_the_dark_and_needs_no_script(browser: Any, address: str, hub: HubFixture) -> None:
    one = Operator(browser, address, hub.admin_token, viewport=NARROW, color_scheme="dark", java_script_enabled=False)
    for name, path in (
        ("rollout", "/act/rollouts?model=digits"),
        ("label", "/act/models/digits/label"),
        ("device", "/devices/kiosk-0"),
    ):
        one.page.goto(address + path)
        one.keep(f"narrow-{name}")
    one.page.goto(f"{address}/act/alarms/1/close")
    one.page.get_by_role("button", name="Close the alarm").click()
    one.page.wait_for_url("**/drift")
    one.see("closed")
