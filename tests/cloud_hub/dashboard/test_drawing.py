"""Boxes drawn and sounds played in a real browser, by mouse, by finger's width and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloud_hub.samples import store
from tests.support import shown_samples
from tests.support.browsing import keep_picture, serving, shows, started_browser, unreadable, visit
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_samples import FOUND, HEIGHT, ROAD, SPEECH, WIDTH

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as opened:
        yield opened


@pytest.fixture
def hub(tmp_path: Any) -> HubFixture:
    made = make_hub(tmp_path)
    shown_samples.lay(made)
    return made


@pytest.fixture
def address(hub: HubFixture) -> Iterator[str]:
    with serving(hub.hub) as found:
        yield found


class Canvas:
    """One sample's picture; places are in its pixels."""

    def __init__(self, page: Any, number: int) -> None:
        self.page, self.root = page, page.locator(".drawing").nth(number)
        self.svg = self.root.locator("svg")

    def at(self, x: float, y: float) -> tuple[float, float]:
        frame = self.svg.bounding_box()
        scale = min(frame["width"] / WIDTH, frame["height"] / HEIGHT)
        left, top = (frame["width"] - WIDTH * scale) / 2, (frame["height"] - HEIGHT * scale) / 2
        return frame["x"] + left + x * scale, frame["y"] + top + y * scale

    def drag(self, *places: tuple[float, float]) -> None:
        self.svg.scroll_into_view_if_needed()
        mouse = self.page.mouse
        mouse.move(*self.at(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.at(*place), steps=4)
        mouse.up()

    def click(self, x: float, y: float) -> None:
        self.svg.scroll_into_view_if_needed()
        self.page.mouse.click(*self.at(x, y))

    def boxes(self) -> list[Any]:
        import json

        return json.loads(self.root.locator("input").input_value() or "[]")


def near(found: list[float], wanted: tuple[float, ...], most: float = 1.5) -> bool:
    return all(abs(one - other) <= most for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("width", [1400, 390])
def test_boxes_are_drawn_changed_undone_and_saved_by_mouse(
    browser: Any, address: str, hub: HubFixture, width: int
) -> None:
    with visit(browser, address, token=hub.admin_token, width=width) as page:
        page.goto(f"{address}/act/models/{ROAD}/label")
        one = Canvas(page, 0)
        one.drag((10, 10), (40, 50))
        one.drag((60, 20), (100, 80))
        page.keyboard.press("1")
        first, second = one.boxes()
        assert near(first["box"], (10, 10, 40, 50)) and first["class"] == 0
        assert near(second["box"], (60, 20, 100, 80)) and second["class"] == 1
        one.drag((80, 50), (90, 60))  # within the chosen one: it moves
        one.drag((110, 90), (130, 100))  # its corner
        assert near(one.boxes()[1]["box"], (70, 30, 130, 100), most=2.5)
        one.click(20, 20)
        page.keyboard.press("2")
        one.drag((140, 100), (150, 110))
        assert [found["class"] for found in one.boxes()] == [2, 1, 2]
        one.root.get_by_role("button", name="Undo").click()
        assert len(one.boxes()) == 2
        other = Canvas(page, 1)
        other.root.get_by_role("button", name="Take what the device found").click()
        assert other.boxes() == [{"box": list(FOUND), "class": 0}]
        keep_picture(page, f"boxes-{width}")
        assert unreadable(page) == []
        ids = page.locator('input[name^="sample-"]').evaluate_all("all => all.map(one => one.value)")
        page.get_by_role("button", name="Save the labels").click()
        page.wait_for_url(f"**/models/{ROAD}/samples")
    labels = [store.get(hub.hub, one).label for one in ids]
    assert [item["class"] for item in labels[0]] == [2, 1] and near(labels[0][0]["box"], (10, 10, 40, 50))
    assert labels[1:] == [[{"box": list(FOUND), "class": 0}], None]


def test_boxes_are_made_by_keyboard_alone(browser: Any, address: str, hub: HubFixture) -> None:
    with visit(browser, address, token=hub.admin_token, scheme="dark") as page:
        page.goto(f"{address}/act/models/{ROAD}/label")
        page.locator(".canvas:focus").wait_for()
        press, one = page.keyboard.press, Canvas(page, 0)
        press("n")
        assert one.boxes() == [{"box": [60, 45, 100, 75], "class": 0}]
        for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp", "2", "n", "1"):
            press(key)
        assert one.boxes()[0] == {"box": [59, 46, 100, 75], "class": 2} and one.boxes()[1]["class"] == 1
        press("b")
        press("Delete")
        assert [found["class"] for found in one.boxes()] == [1]
        press("Control+z")
        assert [found["class"] for found in one.boxes()] == [2, 1]
        one.root.get_by_role("listitem").nth(1).get_by_role("button").focus()
        press("ArrowRight")
        assert one.boxes()[1]["box"] == [61, 45, 101, 75]
        assert page.evaluate("document.activeElement.textContent") == "person: 61, 45, 101, 75"
        one.svg.focus()
        press("Enter")
        press("x")
        assert Canvas(page, 1).root.get_by_role("status").inner_text() == "Nothing is there"
        press("Enter")
        press("Enter")
        keep_picture(page, "boxes-dark")
        ids = page.locator('input[name^="sample-"]').evaluate_all("all => all.map(one => one.value)")
        press("Enter")
        page.wait_for_url(f"**/models/{ROAD}/samples")
    labels = [store.get(hub.hub, one).label for one in ids]
    assert [len(labels[0]), labels[1], labels[2]] == [2, [], None]


def test_a_label_may_be_written_and_what_is_none_is_said(browser: Any, address: str, hub: HubFixture) -> None:
    with visit(browser, address, token=hub.admin_token) as page:
        page.goto(f"{address}/act/models/{ROAD}/label")
        one = Canvas(page, 0)
        one.root.get_by_text("As text").click()
        field = one.root.get_by_role("textbox")
        field.fill('[{"box": [1, 2, 3], "class": "car"}]')
        field.press("Tab")
        assert "no list of boxes" in one.root.get_by_role("status").inner_text()
        field.fill('[{"box": [1, 2, 30.25, 40], "class": "person"}]')
        field.press("Tab")
        shows(one.root.get_by_role("listitem"))
        assert field.input_value() == '[{"box": [1, 2, 30.25, 40], "class": "person"}]'


@pytest.mark.parametrize("width", [1400, 390])
def test_a_sound_plays_by_a_key_and_the_next_one_stops_it(
    browser: Any, address: str, hub: HubFixture, width: int
) -> None:
    with visit(browser, address, token=hub.admin_token, width=width) as page:
        page.goto(f"{address}/act/models/{SPEECH}/label")
        page.locator("fieldset.sample:focus-within").wait_for()
        players = page.locator("audio")
        page.keyboard.press("p")
        players.nth(0).evaluate("one => new Promise(done => one.addEventListener('timeupdate', done))")
        assert players.nth(0).evaluate("one => [one.duration, one.error]") == [1, None]
        page.keyboard.press("0")
        page.keyboard.press("p")
        page.wait_for_function(
            "() => { const [a, b] = document.querySelectorAll('audio'); return a.paused && b.currentTime > 0 }"
        )
        page.keyboard.press("p")
        assert players.nth(1).evaluate("one => one.paused")
        keep_picture(page, f"sounds-{width}")
        assert unreadable(page) == []
        page.keyboard.press("1")
        page.get_by_role("button", name="Save the labels").click()
        page.wait_for_url(f"**/models/{SPEECH}/samples")
    assert sorted(str(row.label) for row in store.of_model(hub.hub, SPEECH)) == ["0", "1", "None"]
