"""The task in manifest and interface: what 0.1 wrote keeps its bytes and its meaning."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from fleet import tasks
from fleet.protocol.errors import MalformedError, UnsupportedError
from fleet.protocol.interface import differences, interface_of
from fleet.protocol.manifest import Manifest, decode_manifest, encode_manifest
from fleet.protocol.task import TaskSpec, task_capability
from tests.support.manifests import small_release

REGRESSION = TaskSpec(name="regression", tolerance=0.5)


def manifest(labels: tuple[str, ...] = (), task: TaskSpec | None = None, requires: tuple[str, ...] = ()) -> Manifest:
    data, _ = small_release(labels=labels, requires=requires)
    return replace(decode_manifest(data), task=task or UNSET)


def test_a_manifest_that_names_no_task_keeps_its_bytes_and_its_meaning() -> None:
    data, _ = small_release()
    classified = decode_manifest(data)
    assert b'"task"' not in data and encode_manifest(classified) == data
    assert tasks.of_manifest(classified).name == "classification"
    assert manifest().named_task is None and not tasks.of_manifest(manifest()).compares


def test_a_manifest_carries_its_task_and_only_the_settings_that_were_given() -> None:
    written = encode_manifest(manifest(task=REGRESSION, requires=(task_capability("regression"),)))
    assert b'"task":{"name":"regression","tolerance":0.5}' in written
    again = decode_manifest(written)
    assert again.named_task == REGRESSION and encode_manifest(again) == written
    with pytest.raises(UnsupportedError, match="unsupported:task:regression"):
        decode_manifest(written, frozenset({"non-finite"}))
    assert decode_manifest(written, frozenset({"task:regression"})) == again


def test_the_task_is_part_of_the_interface() -> None:
    fixed = interface_of(manifest(task=REGRESSION))
    other = interface_of(manifest(task=replace(REGRESSION, tolerance=2.0)))
    assert differences(fixed, fixed) == []
    (said,) = differences(fixed, other)
    assert said == "the model's task is regression (tolerance 0.5); this has regression (tolerance 2.0)"
    assert "this has none" in differences(fixed, interface_of(manifest()))[0]
    assert differences(interface_of(manifest()), fixed) == [], "a model that nobody scored may get a task"


def test_a_classification_that_says_so_has_the_interface_of_one_that_does_not() -> None:
    said = TaskSpec(name="classification")
    names = tuple("0123456789")
    assert differences(interface_of(manifest(names)), interface_of(manifest(names, said))) == []


def test_a_task_that_agents_of_0_1_do_not_know_must_be_required() -> None:
    tasks.check_task(manifest())
    tasks.check_task(manifest(task=REGRESSION, requires=("task:regression",)))
    with pytest.raises(MalformedError, match="must require task:regression"):
        tasks.check_task(manifest(task=REGRESSION))
    with pytest.raises(MalformedError, match="no task 'telepathy'"):
        tasks.check_task(manifest(task=TaskSpec(name="telepathy")))
