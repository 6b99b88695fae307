"""A blob over a network that loses, repeats, delays, disorders or damages packets, below TCP and both ways.

It arrives, and little is sent twice.

Two network namespaces are joined by the link of `tests/support/faults/netns.py`. Containers may forbid namespaces and
TUN devices, so this is the one skip here that is no failure with CI=true: it says what is refused and what to do.
"""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.support.faults import results
from tests.support.faults.judge import Verdict
from tests.support.faults.netns import NotPermittedError, Traffic, Weather, joined

pytestmark = pytest.mark.fault

MOST_WASTE = 0.10
LOSS = "20 % lost"
WEATHER = {
    LOSS: Weather(loss=0.2),
    "10 % twice": Weather(twice=0.1),
    "300 ms late": Weather(delay_s=0.15),  # there and back
    "out of order": Weather(delay_s=0.02, jitter_s=0.04),
    "5 % damaged": Weather(flip=0.05),
    "all of it": Weather(loss=0.1, twice=0.1, flip=0.1, delay_s=0.01, jitter_s=0.02),
}
PATIENT_S, HASTY_S = 30.0, 0.3  # without a byte; the first is the product's default, the second breaks off soon


class Transfer(Struct, frozen=True, kw_only=True):
    """`control`: the congestion control of the hub's TCP, which decides how fast it goes."""

    size: int
    weather: str = LOSS
    control: str = "reno"  # every kernel has it
    patience_s: float = PATIENT_S
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.weather}, {self.control}{', hasty' if self.patience_s == HASTY_S else ''}"


class Outcome(Struct, frozen=True, kw_only=True):
    """`waste`: what the device received in vain, over the file's size; `broken`: how often a connection did.

    `down` is what TCP carried to the device.
    """

    arrived: bool
    struck: bool
    waste: float
    broken: int
    down: Traffic


def transfers() -> list[Transfer]:
    """Three small files; or loss with each congestion control of this kernel, patiently and hastily, and the rest."""
    if not results.FULL:
        small = Transfer(size=64 << 10)
        return [small, replace(small, patience_s=HASTY_S, seed=14), replace(small, weather="all of it")]
    controls = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    # At this loss bbr brings some MiB per second, cubic and reno some 10 KiB.
    patient = [Transfer(size=(4096 if control == "bbr" else 256) << 10, control=control) for control in controls]
    other = [Transfer(size=256 << 10, weather=name) for name in WEATHER if name != LOSS]
    return [*patient, *(replace(each, patience_s=HASTY_S, seed=14) for each in patient), *other]


def run(transfer: Transfer, folder: Path) -> Outcome:
    """One transfer, from a hub's process to a device's."""
    data = random.Random(0).randbytes(transfer.size)
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / "hub").mkdir(parents=True)
    (folder / "hub" / sha256).write_bytes(data)
    hub = ("hub", str(folder / "hub"), transfer.control)
    device = ("device", str(folder / "device"), sha256, str(transfer.size), str(transfer.patience_s))
    with joined(WEATHER[transfer.weather], transfer.seed, hub, device) as (link, at_hub, at_device):
        assert at_hub.heard() == "ready"
        said = at_device.heard() or {"received": 0, "broken": []}
        waste = said["received"] / transfer.size - 1
        return Outcome(
            arrived=waste >= 0, struck=link.struck(), waste=waste, broken=len(said["broken"]), down=link.down
        )


def test_a_blob_arrives_through_bad_weather_and_little_is_sent_twice(tmp_path):
    chosen = transfers()
    try:
        with ThreadPoolExecutor(len(chosen)) as pool:  # they mostly wait for TCP's timers
            outcomes = list(pool.map(lambda each: run(each, tmp_path / str(each)), chosen))
    except NotPermittedError as error:
        pytest.skip(str(error))
    faults = []
    for transfer, outcome in zip(chosen, outcomes, strict=True):
        faults += kept(transfer, outcome)
        assert outcome.struck and outcome.waste <= MOST_WASTE, (transfer, outcome)
        if not outcome.broken:  # what was under way when a connection broke is sent again
            assert outcome.down.stream <= (1 + MOST_WASTE) * transfer.size, (transfer, outcome)
    assert not faults, "\n".join(faults)
    assert any(outcome.broken for outcome in outcomes)


def kept(transfer: Transfer, outcome: Outcome) -> list[str]:
    """Keep the table's row; gives the faults found."""
    down, size = outcome.down, transfer.size
    stuck = () if outcome.arrived else ("stuck: the blob did not arrive",)
    return results.keep(
        "packets",
        str(transfer),
        [Verdict(name=str(transfer), faults=stuck, struck=outcome.struck)],
        seed=transfer.seed,
        size=size,
        broken=outcome.broken,
        waste=round(outcome.waste, 4),
        hub_waste=round(down.stream / size - 1, 4),
        wire_waste=round(down.sent / size - 1, 4),
        **{word: round(getattr(down, word) / down.packets, 3) for word in ("lost", "twice", "late", "flipped")},
    )
