"""The judgement whether asking the cloud pays, by labels: intervals that cover, a verdict that is seldom wrong,
none from little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from cloud_hub.drift.deferring import BETTER, MIN_UNITS, UNKNOWN, WORSE, Labelled, estimate, judge
from cloud_hub.samples import store
from fleet.protocol.durations import HOUR_S
from fleet.protocol.messages import Sample, SampleReason
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.hub import START, HubFixture
from tests.support.size import sized


def fleet(
    seed: int, *, device: float, cloud: float, devices: int = 5, hours: int = 40, per_hour: int = 3, alike: float = 0.0
) -> list[Labelled]:
    """Labelled samples of deferred requests; in an hour that is `alike` all answers are as right as the first."""
    rng, found = np.random.default_rng(seed), []
    for name in range(devices):
        for hour in range(hours):
            rights = rng.random((per_hour, 2)) < (device, cloud)
            if rng.random() < alike:
                rights[:] = rights[0]
            found += [
                Labelled(f"d{name}", hour * HOUR_S + i, True, bool(own), bool(other))
                for i, (own, other) in enumerate(rights)
            ]
    return found


def test_a_better_and_a_worse_cloud_are_told_apart() -> None:
    for seed in range(sized(5, 100)):
        worse, better = (fleet(seed, device=own, cloud=1.55 - own) for own in (0.9, 0.65))
        assert judge(worse).verdict == WORSE and judge(worse).reason.startswith(
            "the cloud's answers are worse: of 600 "
        )
        assert judge(better).verdict == BETTER


@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_of_two_that_are_as_good_neither_is_called_worse(alike: float) -> None:
    """However often one looks, and with hours in which every sample is the same scene."""
    runs, wrong = sized(60, 1000), 0
    for seed in range(runs):
        samples = fleet(seed, device=0.8, cloud=0.8, hours=sized(40, 200), per_hour=4, alike=alike)
        samples.sort(key=lambda sample: sample.at)
        wrong += any(judge(samples[:count]).verdict != UNKNOWN for count in range(50, len(samples) + 1, 150))
    assert wrong <= 0.05 * runs


def test_one_device_does_not_decide_for_others() -> None:
    odd = [Labelled("odd", hour * HOUR_S, True, True, False) for hour in range(500)]
    others = [s for s in fleet(1, device=0.8, cloud=0.8, devices=4) if s.device_right == s.cloud_right]
    assert judge([*odd, *others]).verdict == UNKNOWN
    alone = judge(odd)
    assert alone.verdict == WORSE and "on 1 device" in alone.reason


def test_samples_of_one_hour_are_one_vote() -> None:
    burst = [Labelled("d0", float(i), True, True, False) for i in range(1000)]
    said = judge(burst)
    assert (said.verdict, said.compared, said.only_device, said.only_cloud) == (UNKNOWN, 1000, 1000, 0)
    assert said.asked_cloud is None and "1 hour, the cloud in 0 hours, on 1 device" in said.reason


def test_without_an_answer_of_the_cloud_nothing_is_said_of_it() -> None:
    samples = [s._replace(cloud_right=None) for s in fleet(0, device=0.9, cloud=0.9)]
    said = judge(samples)
    assert said.device is not None and said.device.low < 0.9 < said.device.high
    assert (said.verdict, said.asked_cloud, said.compared) == (UNKNOWN, None, 0)
    assert judge([]).device is None and judge([]).reason == "no labelled sample has an answer of the cloud"


def test_only_random_samples_speak_of_all_requests() -> None:
    hard = [s._replace(drawn_at_random=False) for s in fleet(0, device=0.2, cloud=0.9)]
    said = judge([*fleet(1, device=0.95, cloud=0.95), *hard])
    assert said.device is not None and said.asked_device is not None
    assert said.device.share > 0.9 > said.asked_device.share and said.asked_device.samples == 1200


@pytest.mark.parametrize(("rate", "alike"), [(0.9, 0.0), (0.9, 1.0), (0.5, 1.0), (0.97, 0.5)])
def test_the_interval_covers_the_truth_also_where_requests_repeat(rate: float, alike: float) -> None:
    runs, covered = sized(150, 2000), 0
    for seed in range(runs):
        found = estimate(fleet(seed, device=rate, cloud=rate, hours=10, per_hour=8, alike=alike), right)
        assert found is not None and found.low <= found.share <= found.high
        covered += found.low <= rate <= found.high
    assert covered >= 0.9 * runs


def right(sample: Labelled) -> bool:
    return sample.device_right


def test_samples_that_were_all_right_are_as_few_as_their_hours() -> None:
    found = estimate(fleet(0, device=1.0, cloud=1.0, devices=1, hours=12, per_hour=100), right)
    assert found is not None and (found.samples, found.hours, found.high) == (1200, 12, 1.0) and found.low < 0.8
    assert estimate(fleet(0, device=1.0, cloud=1.0, devices=1, hours=MIN_UNITS - 1), right) is None


# ---- at the hub ------------------------------------------------------------------------------------------


def commit(hub: HubFixture, labelled: Sequence[tuple[int, int | None, int]], reason: SampleReason = "random") -> None:
    """Samples of 5 devices, one an hour each: (device's answer, cloud's answer, label)."""
    x, labels = to_array("x", np.zeros((1, 64), np.float32)), {}
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for number, (own, cloud, label) in enumerate(labelled):
        name = f"{reason}-{number}"
        sample = Sample(
            id=name,
            model="digits",
            release=1,
            variant="v",
            at=START + number // 5 * HOUR_S,
            reason=reason,
            inputs=(x,),
            outputs=(x,),
            confidence=0.5,
            prediction=own,
            cloud_prediction=cloud,
        )
        samples[f"kiosk-{number % 5}"].append(sample)
        labels[name] = label
    for device, batch in samples.items():
        store.commit(hub.hub, device, batch)
    store.label(hub.hub, labels, by="ada", actor="test")


def answers(hub: HubFixture) -> list[dict[str, object]]:
    found = hub.client.get("/api/v1/models/digits", headers=hub.auth())
    assert found.status_code == 200
    shown: list[dict[str, object]] = found.json()["answers"]
    return shown


WORSE_CLOUD = [(number % 3, (number + 1) % 3 if number % 2 else number % 3, number % 3) for number in range(60)]


@pytest.fixture
def digits(hub: HubFixture) -> HubFixture:
    hub.model()
    hub.release(labels=("a", "b", "c"), task=TaskSpec(name="classification"))
    hub.channel()
    return hub


def test_the_hub_says_when_deferring_makes_answers_worse(digits: HubFixture) -> None:
    (before,) = answers(digits)
    assert (before["device"], before["compared"], before["verdict"]) == (None, 0, UNKNOWN)
    commit(digits, WORSE_CLOUD)
    (said,) = answers(digits)
    assert (said["release"], said["compared"], said["only_device"], said["only_cloud"]) == (1, 60, 30, 0)
    assert said["verdict"] == WORSE and str(said["reason"]).startswith("the cloud's answers are worse: of 60 labelled")
    device, cloud = said["device"], said["asked_cloud"]
    assert isinstance(device, dict) and isinstance(cloud, dict)
    assert (device["share"], device["samples"], cloud["share"]) == (1.0, 60, 0.5) and cloud["low"] < 0.5 < cloud["high"]


def test_what_was_kept_for_its_answer_does_not_speak_for_all_requests(digits: HubFixture) -> None:
    commit(digits, [(0, None, 0)] * 60)
    commit(digits, [(0, None, 1), (0, NO_CLASS, 1), (0, 1, 1)] * 20, "uncertain")
    commit(digits, [(0, 1, 1)] * 60, "outlying")
    (said,) = answers(digits)
    assert isinstance(said["device"], dict) and said["device"]["samples"] == 60 and said["device"]["share"] == 1.0
    assert said["compared"] == 20


def test_a_task_whose_answers_do_not_stand_beside_the_sample_has_no_line(hub: HubFixture) -> None:
    hub.model()
    hub.release(labels=(), task=TaskSpec(name="regression", tolerance=0.5), requires=("task:regression",))
    assert answers(hub) == []


def test_the_page_of_samples_shows_it(digits: HubFixture) -> None:
    commit(digits, WORSE_CLOUD)
    digits.client.post("/login", data={"token": digits.admin_token})
    page = digits.client.get("/models/digits/samples").text
    assert "Right by labels" in page and "100.0 % (94.0 to 100.0 %)" in page
    assert 'class="problem" role="alert">the cloud&#39;s answers are worse: of 60 labelled samples' in page
