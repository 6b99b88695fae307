"""Mutated model files, as if signed: they may kill the child that tries them, never the agent, which serves on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from edge_agent.update.disk.state import read_state
from fleet.protocol.manifest import encode_manifest
from tests.support.faults import results
from tests.support.faults.judge import Verdict, recover, wrong
from tests.support.faults.mutants import mutant
from tests.support.faults.strikes import alive
from tests.support.faults.world import MODEL, Scenario, copy, model_bytes
from tests.support.faults.zygote import Case, Mutants
from tests.support.models import onnx_bytes, release

pytestmark = pytest.mark.fault

COUNT = 5_000 if results.FULL else 200
CHUNK = 50


def offered(format: str, scenario: Scenario, folder: Path) -> Path:
    """A good release of a format: the file that is mutated, and its manifest; all other blobs beside."""
    folder.mkdir()
    if format == "tflite":
        held = read_state(scenario.image).models[MODEL].active
        (folder / "manifest.json").write_bytes((scenario.image / "releases" / f"{held.manifest}.json").read_bytes())
        (folder / "model").write_bytes(model_bytes(1))
        return folder
    data = onnx_bytes()
    made = release(folder / "blobs", data=data, runtime="onnx", cloud=False)
    (folder / "manifest.json").write_bytes(encode_manifest(made.manifest))
    (folder / "model").write_bytes(data)
    return folder


def offer(run, folder: Path, scenario: Scenario, url: str, source: Path, first: int) -> tuple[Verdict, Counter[str]]:
    """Offer `CHUNK` mutants to one agent, then start it again."""
    device = copy(scenario.image, folder / "device", f"{url}/{scenario.stage}")
    (device / "agent.toml").write_text("selftest_cpu_s = 10\n")
    mutants = Mutants(folder=str(source), first=first, count=CHUNK)
    ended = run(Case(directory=str(device), looks=0, mutants=mutants))
    faults = alive(ended, scenario, killed=False)
    seen = ended.seen
    if seen is not None:
        faults += [f"torn: {error}" for error in seen.errors] + wrong(seen.at_end, scenario)
        faults += [] if sum(seen.outcomes.values()) == CHUNK else ["unsaid: some files have no outcome"]
    name = f"{source.name}, seeds {first} to {first + CHUNK - 1}"
    after = recover(run, folder, scenario, url, name)
    return msgspec.structs.replace(after, faults=(*faults, *after.faults)), Counter(seen.outcomes if seen else {})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_hostile_file_costs_at_most_the_child_that_tries_it(format, bench, static, world, tmp_path):
    scenario = world("small").scenarios["swap"]
    source = offered(format, scenario, tmp_path / format)
    chunks = bench.map(
        lambda run, folder, first: offer(run, folder, scenario, static.url, source, first), range(0, COUNT, CHUNK)
    )
    outcomes: Counter[str] = sum((counts for _, counts in chunks), Counter())
    verdicts = [verdict for verdict, _ in chunks]
    faults = results.keep("hostile model", format, verdicts, each=CHUNK, outcomes=dict(sorted(outcomes.items())))
    assert not faults, "\n".join(faults)
    assert sum(outcomes.values()) == COUNT and outcomes["passed"] < COUNT
    assert not outcomes["hash-mismatch"]  # a file that is not there is not tried


def test_mutants_differ_from_the_good_file_and_are_the_same_for_the_same_seed():
    data = model_bytes(1)
    made = [mutant(data, seed) for seed in range(200)]
    assert data not in made and made == [mutant(data, seed) for seed in range(200)] and len(set(made)) > 190
