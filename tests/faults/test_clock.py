"""A wrong clock before and in the middle of an update: the device serves, says so, and goes on once it is right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.support.faults import results
from tests.support.faults.bench import Zygote
from tests.support.faults.judge import Verdict, damaged, recover
from tests.support.faults.points import case
from tests.support.faults.static_hub import StaticHub
from tests.support.faults.strikes import alive
from tests.support.faults.world import copy
from tests.support.faults.zygote import Ended

pytestmark = pytest.mark.fault

RIGHT = "+0"
SEED = 11


class Jump(Struct, frozen=True, kw_only=True):
    """The clock is `first` and, from the `at`-th request to the hub on, `then` (see `clocked`)."""

    first: str
    then: str = ""
    at: int = 0
    says: str = ""  # the problem that must be reported

    def __str__(self) -> str:
        return f"clock {self.first}" + (f", {self.then} from request {self.at}" if self.then else "")


def fixed_jumps(asked: int) -> list[Jump]:
    """Those that every run makes, in an update that asks the hub `asked` times."""
    return [
        Jump(first="97200", says="clock-untrusted"),
        Jump(first=f"+{60 * 86_400}", says="expired-metadata"),
        Jump(first=f"+{3 * 86_400}"),  # ahead, but by less than a timestamp lasts: nothing looks wrong
        *(Jump(first=RIGHT, then="-3600", at=at) for at in (4, 8, asked)),
    ]


def random_jumps(count: int, asked: int) -> Iterator[Jump]:
    rng = random.Random(SEED)
    for _ in range(count):
        first, then = (f"{rng.choice((-1, 1)) * 10 ** rng.uniform(1, 7.5):+.0f}" for _ in range(2))
        yield Jump(first=rng.choice((RIGHT, first)), then=then, at=rng.randrange(1, asked + 1))


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file that says what the clock on the wall says."""
    file = tmp_path / "clock"
    file.write_text(RIGHT)
    return file


@pytest.fixture
def zygote(clock: Path) -> Iterator[Zygote]:
    """Agents whose wall clock is in `clock`; their monotonic one is real."""
    made = Zygote(module="tests.support.faults.clocked", arguments=(str(clock),))
    yield made
    made.close()


def update(zygote: Zygote, clock: Path, folder: Path, scenario, static: StaticHub, jump: Jump) -> tuple[Ended, int]:
    """One update under a wrong clock; and how often it asked the hub."""
    copy(scenario.image, folder / "device", f"{static.url}/{scenario.stage}")
    heard: list[str] = []

    def move(path: str) -> None:
        heard.append(path)
        if len(heard) == jump.at:
            clock.write_text(jump.then)

    clock.write_text(jump.first)
    static.heard = move
    try:
        return zygote.run(case(scenario, folder)), len(heard)
    finally:
        static.heard = lambda path: None
        clock.write_text(RIGHT)


def jump(zygote: Zygote, clock: Path, folder: Path, scenario, static: StaticHub, jump: Jump) -> Verdict:
    """One update under a wrong clock, and one look after the clock was put right."""
    ended, asked = update(zygote, clock, folder, scenario, static, jump)
    device = folder / "device"
    faults = alive(ended, scenario, killed=False) + damaged(device)
    if jump.says and ended.seen is not None:
        faults += [] if ended.seen.problem == jump.says else [f"unsaid: {jump.says}, but {ended.seen.problem!r}"]
        reasons = [report.reason for report in ended.seen.reports]
        faults += [] if jump.says in reasons else [f"unsaid: no report of the model says {jump.says}"]
        faults += [] if ended.seen.at_end.release == scenario.old else ["accepted: a release under a wrong clock"]
    verdict = recover(zygote.run, folder, scenario, static.url, str(jump))
    # A clock that is wrong from the beginning may end the look before the request at which it was to jump.
    return replace(verdict, faults=(*faults, *verdict.faults), struck=asked >= jump.at)


@pytest.mark.timeout(240)
def test_a_wrong_clock_stops_new_installs_at_most_until_it_is_right(zygote, clock, static, world, tmp_path):
    scenario = world("small").scenarios["swap"]
    ended, asked = update(zygote, clock, tmp_path, scenario, static, Jump(first=RIGHT))
    assert ended.seen is not None and ended.seen.active == scenario.wanted, ended
    fixed = fixed_jumps(asked)
    jumps = [*fixed, *random_jumps(20 if results.FULL else 3, asked)]
    verdicts = [jump(zygote, clock, tmp_path, scenario, static, one) for one in jumps]
    faults = results.keep("clock", "swap", verdicts, seed=SEED, asked=asked)
    assert not faults, "\n".join(faults)
    assert all(verdict.struck for verdict in verdicts[: len(fixed)])
