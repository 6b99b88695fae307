"""Many samples on one page, those first that teach most; a label is given once and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from cloud_hub.dashboard.acts.labelling import COUNT, choices_of
from cloud_hub.samples import store
from fleet import tasks
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.acting import Person, audited, text_of
from tests.support.hub import HubFixture, make_hub

PATH = "/act/models/digits/label"
CLASSES = ("zero", "one", "<b>two")


def keep(hub: HubFixture, ids: Sequence[str], values: np.ndarray, model: str = "digits") -> None:
    """Samples that devices were not sure of, one for each row of `values`."""
    scores = to_array("logits", np.array([[0.2, 0.5, 0.3]], np.float32))
    store.commit(
        hub.hub,
        "kiosk-0",
        [
            Sample(
                id=one,
                model=model,
                release=1,
                variant="v",
                at=hub.clock(),
                reason="uncertain",
                confidence=0.4,
                inputs=(to_array("x", row[None].astype(np.float32)),),
                outputs=(scores,),
                prediction=1,
            )
            for one, row in zip(ids, values, strict=True)
        ],
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    made = make_hub(tmp_path_factory.mktemp("labels"))
    made.model("digits")
    made.release("digits", labels=CLASSES)
    rng = np.random.default_rng(0)
    keep(made, [f"s{number:02}" for number in range(COUNT + 5)], rng.normal(size=(COUNT + 5, 64)))
    return made


def test_twenty_are_labelled_at_once(hub: HubFixture) -> None:
    operator = Person(hub, hub.token(role="operator"))
    page = operator.open(PATH).text
    shown = [one for name, one in operator.hidden(page).items() if name.startswith("sample-")]
    assert len(set(shown)) == COUNT and page.count("<polyline") == COUNT
    assert "<kbd>2</kbd> &lt;b&gt;two" in page and "The device said: one" in text_of(page)
    answer = operator.send(PATH, page, **{f"label-{place}": place % 3 for place in range(COUNT - 1)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models/digits/samples")
    labels = [store.get(hub.hub, one).label for one in shown]
    assert labels == [place % 3 for place in range(COUNT - 1)] + [None]
    (entry,) = audited(hub, "sample.label")
    assert entry.detail == {"labels": COUNT - 1}
    assert not set(shown[:-1]) & set(operator.hidden(operator.open(PATH).text).values())


def test_a_label_of_somebody_else_is_not_written_over(hub: HubFixture) -> None:
    hub.model("letters")
    hub.release("letters", labels=CLASSES)
    keep(hub, ["mine", "theirs"], np.random.default_rng(1).normal(size=(2, 64)), "letters")
    person, path = Person(hub), "/act/models/letters/label"
    page = person.open(path).text
    places = {one: name.removeprefix("sample-") for name, one in person.hidden(page).items()}
    store.label(hub.hub, {"theirs": 2}, by="ada", actor="ada")
    chosen = {f"label-{places['mine']}": "0", f"label-{places['theirs']}": "1"}
    late = person.send(path, page, **chosen)
    text = text_of(late.text)
    assert late.status_code == 409 and "Labelled <b>two by ada meanwhile" in text and "nothing was done" in text
    assert re.search(rf'name="label-{places["mine"]}" value="0" checked', late.text)
    assert store.get(hub.hub, "mine").label is None and store.get(hub.hub, "theirs").label == 2
    assert person.send(path, late.text, **{f"label-{places['mine']}": "0"}).status_code == 303
    assert store.get(hub.hub, "mine").label == 0 and store.get(hub.hub, "theirs").labelled_by == "ada"


def test_a_wrong_label_is_said_and_the_others_stay(hub: HubFixture) -> None:
    person = Person(hub)
    page = person.open(PATH).text
    assert person.send(PATH, page).status_code == 400
    wrong = person.send(PATH, page, **{"label-0": "1", "label-1": "77"})
    assert wrong.status_code == 400 and re.search(r'name="label-0" value="1" checked', wrong.text)
    assert store.get(hub.hub, person.hidden(page)["sample-0"]).label is None


def test_a_model_without_samples_says_so(hub: HubFixture) -> None:
    hub.model("empty")
    assert "There is no sample that waits for a label" in text_of(Person(hub).open("/act/models/empty/label").text)
    assert Person(hub).open("/act/models/none/label").status_code == 404


def test_what_is_chosen_hangs_on_the_task() -> None:
    def task(name: str, classes: tuple[str, ...], **settings: object) -> tasks.Task:
        out = Tensor(name="out", datatype="FP32", shape=(-1, max(1, len(classes))))
        return tasks.of(TaskSpec(name=name, **settings), classes, (out,))

    many = tuple(f"c{number}" for number in range(11))
    assert choices_of(task("classification", many[:10]))[9] == ("9", "c9")
    assert choices_of(task("classification", many)) == choices_of(None) == []
    assert choices_of(task("anomaly-score", (), threshold=1))[1] == ("1", "an anomaly")
    assert choices_of(task("multi-label", many[:3])) == []
