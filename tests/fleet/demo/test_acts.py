from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from fleet.api.devices import SILENT
from fleet.api.samples import SampleArray, SampleDetail
from fleet.cli.planning import parse_stages
from fleet.demo.acts import drift, rollouts, train
from fleet.demo.driver import Tally, image_key
from fleet.demo.report import byte_totals, requests_section
from fleet.demo.workshop import MODEL, Workshop
from fleet.rollouts.guard_policy import GuardPolicy


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / ".demo", 0, Console(quiet=True))


def test_stages_and_guard_are_what_the_product_accepts() -> None:
    import msgspec

    assert parse_stages(rollouts.STAGES) == [34, 100]
    policy = msgspec.json.decode(rollouts.GUARD, type=GuardPolicy)
    assert policy.evidence_deadline_s < rollouts.TIMEOUT_S


def test_the_annotator_recognises_an_image_by_its_bytes() -> None:
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    array = SampleArray(name="x", datatype="FP32", shape=[1, 8, 8], data=[float(v) for v in image.reshape(-1)])
    sample = SampleDetail(id="s", model=MODEL, inputs=[array])
    assert image_key(drift.sample_bytes(sample)) == image_key(image.tobytes())


def test_a_device_serves_what_it_has_committed(shop: Workshop) -> None:
    assert shop.local("kiosk-1") == {} and not shop.serves("kiosk-1", 2)
    shop.agent_dir("kiosk-1").mkdir()
    for state, serves in (("trying", False), ("probation", False), ("committed", True), ("rolled_back", True)):
        document = {"models": {MODEL: {"state": state, "active": {"release": 2}}}}
        (shop.agent_dir("kiosk-1") / "state.json").write_text(json.dumps(document))
        assert shop.local("kiosk-1")["state"] == state
        assert shop.serves("kiosk-1", 2) is serves
        assert not shop.serves("kiosk-1", 3)


def test_bytes_are_a_mean_over_devices() -> None:
    infos = [replace(SILENT, bytes_down=10, bytes_up=3), replace(SILENT, bytes_down=20)]
    assert byte_totals(infos) == {
        "down_per_device": 15,
        "up_per_device": 2,
    }


def test_requests_under_way_are_not_counted() -> None:
    tallies = [Tally(total=4, failed=1, served_by=Counter(edge=2)), Tally(total=3, served_by=Counter(edge=2, cloud=1))]
    counted = requests_section(tallies)
    assert (counted["total"], counted["edge"], counted["cloud"], counted["failed"]) == (6, 4, 1, 1)


def test_the_examples_lie_beside_the_packages() -> None:
    assert (train.examples() / "digits" / "data.py").is_file()
