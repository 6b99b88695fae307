"""Sounds are played and boxes are drawn where the hub knows what they are; what it does not know it asks for."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import numpy as np
import pytest

from cloud_hub.samples import box_units, store
from cloud_hub.store.tables import Model
from fleet.tasks.detection import Detections
from tests.support import shown_samples
from tests.support.acting import Person, text_of
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_samples import FOUND, HEIGHT, ROAD, SPEECH, WIDTH


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    made = make_hub(tmp_path_factory.mktemp("seen"))
    shown_samples.lay(made)
    return made


def data_of(page: str, name: str) -> Any:
    """The data of the first drawing under a name."""
    return json.loads(html.unescape(re.search(rf'data-{name}="([^"]*)"', page)[1]))  # type: ignore[index]


def test_a_sound_is_a_file_of_its_own_for_those_who_are_logged_in(hub: HubFixture) -> None:
    person = Person(hub)
    page = person.open(f"/act/models/{SPEECH}/label").text
    assert "audio: 1 s at 8,000 Hz" in text_of(page)
    (path,) = set(re.findall(r'<audio[^>]* src="([^"]*-0/[^"]*)"', page))
    answer = person.open(html.unescape(path))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert answer.content[:4] == b"RIFF" and answer.headers["x-content-type-options"] == "nosniff"
    assert "media-src 'self'" in person.open("/").headers["content-security-policy"]
    assert person.open(f"/samples/{SPEECH}-0/sound?input=other").status_code == 404
    assert person.open(f"/samples/{ROAD}-0/sound?input=image").status_code == 404
    assert person.open(f"/samples/{SPEECH}-0/sound?input={'x' * 300}").status_code == 400
    assert hub.client.get(html.unescape(path), follow_redirects=False).headers["location"] == "/login"


def test_which_inputs_are_sound_and_how_boxes_count_is_the_models_policy(hub: HubFixture) -> None:
    hub.model("heard")

    def change(policy: dict[str, Any]) -> Any:
        return hub.client.patch("/api/v1/models/heard", json={"policy": policy}, headers=hub.auth())

    given = {"samples": {"sound": {"audio": 16_000}, "boxes": "share"}}
    assert change(given).json()["policy"]["samples"] == given["samples"]
    for wrong in ({"sound": {"audio": 10}}, {"sound": {"audio": 10**6}}, {"boxes": "miles"}, {"colour": "red"}):
        assert change({"samples": wrong}).status_code == 400
    assert "samples" not in hub.client.get(f"/api/v1/models/{ROAD}", headers=hub.auth()).json()["policy"].get("x", {})


def test_boxes_are_drawn_on_the_picture_in_the_unit_of_the_answers(hub: HubFixture) -> None:
    person = Person(hub)
    page = person.open(f"/act/models/{ROAD}/label").text
    assert "pixels of the picture, as devices have answered" in text_of(page)
    assert (data_of(page, "width"), data_of(page, "height")) == (WIDTH, HEIGHT) and 'data-unit="pixels"' in page
    assert data_of(page, "start") == [{"box": list(FOUND), "class": 0}]
    assert data_of(page, "classes")[2] == [2, "<b>bike"] and "<b>bike" not in page
    assert person.open(f"/samples/{ROAD}-0/picture?large=true").content[:4] == b"\x89PNG"
    wanted = [{"box": [1.5, 2, 30, 40], "class": 1}, {"box": [0, 0, 160, 120], "class": 2}]
    first = person.hidden(page)["sample-0"]
    assert person.send(f"/act/models/{ROAD}/label", page, **{"label-0": json.dumps(wanted)}).status_code == 303
    assert store.get(hub.hub, first).label == wanted
    again = person.open(f"/act/models/{ROAD}/label?again=yes&sample-0={first}").text
    assert data_of(again, "start") == wanted and "Take the label" in text_of(again)


def test_a_label_is_taken_whole_to_be_changed(hub: HubFixture) -> None:
    shown_samples.detections(hub, "crowd")
    person = Person(hub)
    page = person.open("/act/models/crowd/label").text
    many = [{"box": [0, 0, 1 + number, 2], "class": 1} for number in range(60)]
    first = person.hidden(page)["sample-0"]
    assert person.send("/act/models/crowd/label", page, **{"label-0": json.dumps(many)}).status_code == 303
    again = person.open(f"/act/models/crowd/label?again=yes&sample-0={first}").text
    assert data_of(again, "start") == many


def test_one_answer_that_is_nonsense_changes_the_unit_of_nobodys_labels() -> None:
    def found(*box: float) -> Detections:
        return Detections(np.array([box]), np.array([0.9]), np.array([0]))

    shares, pixels = found(0.1, 0.1, 0.4, 0.5), found(*FOUND)
    assert box_units.unit_of("", [shares, pixels, shares, None]) == "share"
    assert box_units.unit_of("", [pixels, shares, pixels]) == "pixels" and box_units.unit_of("", [None]) is None


def test_a_devices_boxes_of_classes_without_a_name_are_no_beginning() -> None:
    made = Detections(np.array([FOUND, FOUND, (9, 9, 1, 1)]), np.array([0.9, 0.8, 0.7]), np.array([2, 7, 0]))
    assert box_units.as_label(made, 3, 50) == [{"box": list(FOUND), "class": 2}]


def test_shares_are_told_from_pixels_and_what_nothing_tells_is_asked_for(hub: HubFixture) -> None:
    shown_samples.detections(hub, "shares", scale=(WIDTH, HEIGHT))
    shown_samples.detections(hub, "blind", found=False)
    person = Person(hub)
    page = person.open("/act/models/shares/label").text
    assert 'data-unit="share"' in page and "shares of its width and height" in text_of(page)
    asked = person.open("/act/models/blind/label").text
    assert "fleet model change blind --policy" in text_of(asked) and 'class="drawing"' not in asked
    assert re.search(r'name="label-0" value="" maxlength="30000"', asked)
    with hub.hub.session() as session:
        session.get_one(Model, "blind").policy = {"samples": {"boxes": "share"}}
    said = person.open("/act/models/blind/label").text
    assert 'data-unit="share"' in said and "as the model's policy says" in text_of(said)
    assert 'data-start=""' in said and "Take what" not in said
