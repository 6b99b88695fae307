"""The label check of a custom task: it judges in a process of its own, and nothing in it reaches the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.errors import HubError, InvalidError, NotFoundError
from cloud_hub.samples import owners_check, store
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.hub import START, HubFixture, make_hub

CHECK = """
import units

def check_label(label):
    if not isinstance(label, dict) or set(label) != {"kg"}:
        raise ValueError('a label is {"kg": number}')
    print("this is no answer")
    return {"kg": units.rounded(label["kg"])}

def ends(label):
    raise SystemExit(3)

def crashes(label):
    import os
    os.abort()

def hangs(label):
    while True:
        pass

def nothing(label):
    return None

def no_json(label):
    return {1, 2}

def endless(label):
    return 10 ** 400

def nan(label):
    return float("nan")
"""
POLICY = {"labels": {"check": "weights.py:check_label"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Path(tmp_path_factory.mktemp("recipes"))
    (made / "weights.py").write_text(CHECK)
    (made / "units.py").write_text("def rounded(value):\n    return round(float(value), 1)\n")
    (made / "broken.py").write_text("import units\nraise RuntimeError('no database here')\n")
    return made


def test_each_label_is_judged_by_itself(folder: Path) -> None:
    found = owners_check.ask(folder, "weights.py:check_label", [{"kg": 1.26}, 3, {"kg": "x"}])
    assert found[0].kept == {"kg": 1.3} and found[1].wrong == 'a label is {"kg": number}'
    assert "could not convert" in found[2].wrong
    (nothing,) = owners_check.ask(folder, "weights.py:nothing", [1])
    assert nothing.wrong == "the check returned nothing for it"
    assert all(one.wrong for name in ("no_json", "nan") for one in owners_check.ask(folder, f"weights.py:{name}", [1]))


BROKEN = [
    ("weights.py:ends", "failed"),
    ("weights.py:crashes", "failed"),
    ("weights.py:hangs", "ended after 2 s"),
    ("weights.py:absent", "no function absent"),
    ("broken.py:check", "no database here"),
]


@pytest.mark.parametrize(("name", "why"), BROKEN)
def test_a_check_that_ends_crashes_or_hangs_is_said_and_harms_nobody(folder: Path, name: str, why: str) -> None:
    with pytest.raises(InvalidError, match=f"the label check {name} .*{why}"):
        owners_check.ask(folder, name, [1], limit_s=2.0 if "hangs" in name else 60.0)


@pytest.mark.parametrize(
    "name", ["", "weights.py", "../weights.py:f", "/etc/x.py:f", "a.py:f()", "weights.py:f;g", ".py:f"]
)
def test_only_a_bare_file_and_a_function_can_be_named(folder: Path, name: str) -> None:
    with pytest.raises(InvalidError, match=r"is not FILE.py:FUNCTION"):
        owners_check.ask(folder, name, [1])


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"absent\.py"):
        owners_check.ask(folder, "absent.py:check", [1])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[HubFixture]:
    made = make_hub(Path(tmp_path_factory.mktemp("hub")))
    recipes = made.hub.config.directory / "recipes"
    recipes.mkdir(exist_ok=True)
    for file in folder.glob("*.py"):
        (recipes / file.name).write_text(file.read_text())
    body = {"name": "scale", "policy": POLICY}
    assert made.client.post("/api/v1/models", json=body, headers=made.auth()).status_code == 201
    outputs = (Tensor(name="out", datatype="FP32", shape=(-1, 1)),)
    task = TaskSpec(name="custom", agreement="tolerance", tolerance=0.1)
    made.release("scale", labels=(), outputs=outputs, task=task, requires=("task:custom",))
    x = to_array("x", np.zeros((1, 64), np.float32))
    samples = [
        Sample(
            id=key,
            model="scale",
            release=1,
            variant="v",
            at=START,
            reason="random",
            inputs=(x,),
            outputs=(),
            confidence=0.0,
            prediction=NO_CLASS,
        )
        for key in ("s1", "s2")
    ]
    store.commit(made.hub, "d", samples)
    yield made
    made.hub.engine.dispose()


def test_the_hub_keeps_what_the_check_keeps_and_refuses_what_it_refuses(hub: HubFixture) -> None:
    def put(labels: dict[str, Any]) -> int:
        return store.label(hub.hub, labels, by="ada", actor="t")

    assert put({"s1": {"kg": 2.04}}) == 1 and store.get(hub.hub, "s1").label == {"kg": 2.0}
    with pytest.raises(InvalidError, match=r'sample s2: a label is \{"kg": number\}; nothing was labelled') as caught:
        put({"s1": {"kg": 9}, "s2": 5})
    assert caught.value.hint == "see weights.py:check_label"
    assert store.get(hub.hub, "s1").label == {"kg": 2.0} and store.get(hub.hub, "s2").label is None
    with pytest.raises(HubError, match="no sample absent"):
        put({"absent": {"kg": 1}})


def change(hub: HubFixture, policy: dict[str, Any]) -> int:
    return hub.client.patch("/api/v1/models/scale", json={"policy": policy}, headers=hub.auth()).status_code


def test_what_no_database_could_keep_is_refused(hub: HubFixture) -> None:
    assert change(hub, {"labels": {"check": "weights.py:endless"}}) == 200
    with pytest.raises(InvalidError, match=r"label"):
        store.label(hub.hub, {"s2": 1}, by="ada", actor="t")
    assert change(hub, POLICY) == 200 and store.get(hub.hub, "s2").label is None


def test_naming_a_check_needs_an_admin_and_a_name_that_can_be_one(hub: HubFixture) -> None:
    operator = hub.auth(hub.token(role="operator"))
    body = {"name": "other", "policy": POLICY}
    assert hub.client.post("/api/v1/models", json=body, headers=operator).status_code == 403
    assert hub.client.patch("/api/v1/models/scale", json={"policy": POLICY}, headers=operator).status_code == 403
    for wrong in ({"check": "os:system"}, {"check": 3}, {"chekc": "a.py:f"}, "a.py:f"):
        body = {"name": "other", "policy": {"labels": wrong}}
        answer = hub.client.post("/api/v1/models", json=body, headers=hub.auth())
        assert answer.status_code == 400 and "policy.labels" in answer.text
