"""Every attack from the hub's place, on a device as it is and on one whose power failed in the middle of an update.

The agent starts, serves the old or the new release and never an attacker's; what its disk knows is never taken back;
its report names the reason; and one look at the honest hub brings it where it should be.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from edge_agent.update.disk.state import read_state
from edge_agent.update.rules.model_state import ModelState
from tests.faults.test_power_loss import MODES, record
from tests.support.faults import results
from tests.support.faults.attacks import Arsenal, Attack, LyingHub, lying
from tests.support.faults.bench import Zygote
from tests.support.faults.judge import Verdict, damaged, recover, wrong
from tests.support.faults.points import case, sample
from tests.support.faults.record import Op
from tests.support.faults.replay import Disk
from tests.support.faults.world import MODEL, Scenario, World, copy, point_at
from tests.support.faults.zygote import Ended

pytestmark = pytest.mark.fault

SEED = 13
CUTS = 20 if results.FULL else 0  # of each attack; without the full size, one of a few attacks
FEW = 8  # about a second


class Struck(Struct, frozen=True, kw_only=True):
    """An attack on a device whose power failed after `after` operations of an update; not at all without `mode`."""

    attack: Attack
    scenario: Scenario
    number: int
    ops: list[Op] = []
    after: int = 0
    mode: str = ""

    @property
    def name(self) -> str:
        return f"{self.attack.name}, power off after {self.after}, {self.mode}" if self.mode else self.attack.name


class Counter:
    """Connections to an address that nobody may ask."""

    def __init__(self, listener: socket.socket) -> None:
        self.url, self.count = f"http://127.0.0.1:{listener.getsockname()[1]}/", 0
        self._listener = listener

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            client.close()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Counter]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        counter = Counter(listener)
        thread = threading.Thread(target=counter.run, daemon=True)
        thread.start()
        yield counter
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture(scope="module")
def liar() -> Iterator[LyingHub]:
    with lying() as hub:
        yield hub


@pytest.fixture(scope="module")
def arsenal(world, static, elsewhere: Counter, tmp_path_factory) -> list[Attack]:
    return Arsenal(world("small"), static, tmp_path_factory.mktemp("arsenal"), elsewhere.url).all()


def known(device: Path) -> dict[str, int]:
    """The versions of the metadata on the disk, and the time floor."""
    found = {}
    for path in device.glob("tuf/*.json"):
        if path.exists():
            found[path.name] = json.loads(path.read_bytes())["signed"]["version"]
    floor = device / "time-floor"
    return found | ({"time floor": float(floor.read_text())} if floor.exists() else {})


def device(folder: Path, struck: Struck, honest: str) -> Path:
    """The device's folder as its power loss left it."""
    made = copy(struck.scenario.image, folder / "device", honest)
    if struck.mode:
        disk = Disk(made)
        for op in struck.ops[: struck.after]:
            disk.apply(op)
        shutil.rmtree(made)
        disk.after_power_loss(random.Random(SEED * 10_000 + struck.after), made, struck.mode)
    return made


def strike(run, folder: Path, struck: Struck, liar: LyingHub, honest: str) -> Verdict:
    """Build the disk, show the attack for one life, judge it, and recover."""
    scenario, attack, made = struck.scenario, struck.attack, device(folder, struck, honest)
    before, had, outside = read_state(made).models.get(MODEL, ModelState()), known(made), others(folder)
    settings = made / "agent.toml"
    if attack.settings:
        settings.write_text(attack.settings)
    place = f"case-{struck.number}"
    with liar.showing(place, attack) as url:
        point_at(made, url)
        # While a release is tried nothing else is: the second look comes when that is decided.
        ended = run(case(scenario, folder, looks=1 if before.state in ("idle", "committed") else 2))
    settings.unlink(missing_ok=True)
    seen, have = ended.seen, known(made)
    told = liar.struck[place] > 0 if attack.lies else had.get("timestamp.json", 0) > attack.harmless_to
    faults = damaged(made)
    faults += [f"accepted: {path} outside of the device's folder" for path in sorted(others(folder) - outside)]
    faults += [f"accepted: {name} {have.get(name)} for {it}" for name, it in had.items() if have.get(name, 0) < it]
    faults += judged(ended, scenario, attack, before, told)
    heals = replace(scenario, stage=attack.heals or scenario.stage)
    if seen is not None and attack.new == seen.active:
        heals = replace(heals, old=attack.new)
    verdict = recover(run, folder, heals, honest, struck.name)
    return replace(verdict, faults=(*faults, *verdict.faults), struck=told)


def judged(ended: Ended, scenario: Scenario, attack: Attack, before: ModelState, told: bool) -> list[str]:
    """The faults of the life in which the attack was shown."""
    seen = ended.seen
    if seen is None:
        return [f"bricked: the agent ended with {ended.code}: {ended.trace[-600:]}"]
    may = replace(scenario, new=attack.new) if attack.new == seen.active else scenario
    faults = [f"torn: {why}" for why in (*wrong(seen.at_start, scenario), *wrong(seen.at_end, may))]
    if scenario.old and not (seen.at_start.release and seen.at_end.release):
        faults.append(f"bricked: it serves nothing: {seen.errors}")
    if not seen.clean:
        faults.append(f"unclean: {seen.errors}")
    held = before.active.release if before.active else 0
    if before.state == "committed" and seen.active < held:
        faults.append(f"accepted: release {seen.active} instead of {held}")
    if attack.new and seen.active != attack.new:
        faults.append(f"stuck: release {attack.new} was signed by the release key, and {seen.active} is active")
    if attack.reasons and told and not seen.told & set(attack.reasons):
        faults.append(f"unsaid: none of {attack.reasons}, but {seen.told}; {seen.errors}")
    return faults


def others(folder: Path) -> set[str]:
    """The files beside the device's folder."""
    return {str(path) for path in folder.rglob("*") if not path.is_relative_to(folder / "device")}


@pytest.mark.timeout(600)
def test_no_attack_from_the_hubs_place_gets_through(bench, static, world, arsenal, liar, elsewhere):
    made = world("small")
    first = {one.name.partition(" ")[0]: one for one in reversed(arsenal)}  # one of each number
    shown = arsenal if results.FULL else [*reversed(first.values())]
    cases = [Struck(attack=one, scenario=made.scenarios[one.alone], number=n) for n, one in enumerate(shown)]
    verdicts = bench.map(lambda run, folder, one: strike(run, folder, one, liar, static.url), cases)
    faults = []
    for one, verdict in zip(cases, verdicts, strict=True):
        faults += results.keep("attack", one.attack.name, [verdict])
        faults += [] if verdict.struck else [f"{verdict.name} did not reach the device"]
    assert not faults, "\n".join(faults)
    assert elsewhere.count == 0


@pytest.mark.timeout(900)
def test_no_attack_gets_through_after_a_power_loss(bench, static, world: World, arsenal, liar, elsewhere, strace):
    scenario = world("small").scenarios["swap"]
    with bench.worker() as (run, folder):
        ops = record(run, folder, scenario, static.url)
    moments = [(k, mode) for k in range(1, len(ops) + 1) for mode in MODES]
    rng, cases = random.Random(SEED), []
    for one in arsenal if CUTS else rng.sample(arsenal, FEW):
        for after, mode in sample(moments, CUTS or 1, rng.randrange(1 << 30)):
            number = len(arsenal) + len(cases)
            cases.append(Struck(attack=one, scenario=scenario, number=number, ops=ops, after=after, mode=mode))
    verdicts = bench.map(lambda run, folder, cut: strike(run, folder, cut, liar, static.url), cases)
    faults = []
    for one in {one.attack.name: None for one in cases}:
        mine = [verdict for cut, verdict in zip(cases, verdicts, strict=True) if cut.attack.name == one]
        faults += results.keep("attack, power", one, mine, seed=SEED)
    assert not faults, "\n".join(faults)
    assert elsewhere.count == 0


FROZEN = {"A4 frozen hub": (f"+{60 * 86_400}", "expired-metadata"), "A4 clock of 1970": ("97200", "clock-untrusted")}


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file that says what the clock on the wall says."""
    file = tmp_path / "clock"
    file.write_text("+0")
    return file


@pytest.fixture
def zygote(clock: Path) -> Iterator[Zygote]:
    made = Zygote(module="tests.support.faults.clocked", arguments=(str(clock),))
    yield made
    made.close()


@pytest.mark.timeout(240)
def test_nothing_new_is_installed_from_a_frozen_hub(bench, static, world, zygote, clock, tmp_path, strace):
    """A4: two months later the hub still serves what it did; and a clock that lost its battery with the power."""
    scenario = world("small").scenarios["swap"]
    with bench.worker() as (run, folder):
        ops = record(run, folder, scenario, static.url)
    moments = [(0, ""), *sample([(k, mode) for k in range(1, len(ops) + 1) for mode in MODES], CUTS or 1, SEED)]
    faults = []
    for name, (shown, word) in FROZEN.items():
        attack = Attack(name=name, files=static.stages[scenario.stage], reasons=(word,))
        verdicts = []
        for after, mode in moments:
            struck = Struck(attack=attack, scenario=scenario, number=0, ops=ops, after=after, mode=mode)
            verdicts.append(freeze(zygote, clock, tmp_path, struck, static.url, shown))
        faults += results.keep("attack", name, verdicts[:1]) + results.keep(
            "attack, power", name, verdicts[1:], seed=SEED
        )
    assert not faults, "\n".join(faults)


def freeze(zygote: Zygote, clock: Path, folder: Path, struck: Struck, honest: str, shown: str) -> Verdict:
    """One life under another clock, and one look under the right one."""
    scenario = struck.scenario
    made = device(folder, struck, honest)
    point_at(made, f"{honest}/{scenario.stage}")
    before, had = read_state(made).models.get(MODEL, ModelState()), known(made)
    clock.write_text(shown)
    try:
        ended = zygote.run(case(scenario, folder))
    finally:
        clock.write_text("+0")
    have = known(made)
    faults = judged(ended, scenario, struck.attack, before, told=True) + damaged(made)
    faults += [f"accepted: {name} {have.get(name)} for {it}" for name, it in had.items() if have.get(name, 0) < it]
    if ended.seen is not None and before.state in ("idle", "committed", "fetching") and before.active is not None:
        faults += [] if ended.seen.active == before.active.release else [f"accepted: {ended.seen.active} is new"]
    verdict = recover(zygote.run, folder, scenario, honest, struck.name)
    return replace(verdict, faults=(*faults, *verdict.faults))
