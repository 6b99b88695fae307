"""Bad networks between a device and its hub: the old release serves on, the reports say why, and little is sent twice.

The proxy of `tests/support/faults/network.py` breaks connections by a seed. The device's patience is scaled
down (`PATIENCE`), so that a silent or dripping network costs parts of a second; the rule for one byte every two
seconds with the real figures is in tests/edge_agent/update/test_sources.py, on an injected clock.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from edge_agent.errors import FetchError, UnreachableError
from edge_agent.update.disk.store import Store
from edge_agent.update.download.fetch import fetch_blob
from edge_agent.update.download.sources import HttpMirror
from edge_agent.update.download.throttle import DownloadPace
from fleet.protocol.manifest import Blob
from tests.support.faults import results
from tests.support.faults.judge import Verdict, recover, wrong
from tests.support.faults.network import Plan, Proxy, spoiled
from tests.support.faults.points import case
from tests.support.faults.static_hub import StaticHub, serving
from tests.support.faults.world import copy

pytestmark = pytest.mark.fault

PATIENCE = "gap_timeout_s = 0.5\ngrace_s = 0.5\n"
PAGE = b"<html><title>Welcome, please log in</title></html>"
LOGIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"
MOST_WASTE = 0.10


class Cell(Struct, frozen=True, kw_only=True):
    """`passes`: the update arrives through the spoiled network itself within `looks`; else only once it heals."""

    name: str
    plan: Plan
    looks: int = 2
    passes: bool = True
    seed: int = 1
    update: str = "swap"
    size: str = "256 KiB"


CELLS = [
    Cell(name="loss", plan=Plan(cut=0.1, stall=0.1), looks=40),
    Cell(name="resets", plan=Plan(reset=0.2), looks=40),
    Cell(name="delay", plan=Plan(delay_s=0.03)),
    Cell(name="damage", plan=Plan(flip=0.05), looks=40),
    Cell(name="64 kbit/s", plan=Plan(slow=16_000)),
    Cell(name="drip", plan=Plan(drip_s=0.1), passes=False),
    Cell(name="endless", plan=Plan(instead=ENDLESS, endless=True), passes=False),
    Cell(name="login page", plan=Plan(instead=LOGIN, everywhere=True), passes=False),
]


def cells() -> list[Cell]:
    """8, or 37: two updates and two sizes, four more seeds of loss, and one that is slow from its first byte on."""
    if not results.FULL:
        return CELLS
    every = [replace(cell, update=update) for cell in CELLS for update in ("install", "swap")]
    every += [_large(cell) for cell in every]
    whole = Cell(name="64 kbit/s throughout", plan=Plan(slow=1 << 40, everywhere=True))
    return [*every, *(replace(CELLS[index % 2], seed=2 + index) for index in range(4)), whole]


def _large(cell: Cell) -> Cell:
    """The same with sixteen times the pieces: it breaks about sixteen times as often, but no whole blob may be spoiled
    as often, since a damaged one is thrown away."""
    looks = cell.looks * (16 if cell.looks > 2 else 1)
    return replace(cell, size="4 MiB", looks=looks, plan=replace(cell.plan, flip=cell.plan.flip / 16))


def endure(run, folder: Path, world, static, cell: Cell) -> tuple[Verdict, float]:
    """A life behind the proxy, then one with a healed network; and the share of blob bytes that came in vain."""
    scenario = world.scenarios[cell.update]
    faults: list[str] = []
    with spoiled(static.url, cell.plan, cell.seed) as (url, proxy):
        device = copy(scenario.image, folder / "device", f"{url}/{scenario.stage}")
        (device / "agent.toml").write_text(PATIENCE)
        ended = run(case(scenario, folder, looks=cell.looks, enough=scenario.wanted, hangs_s=240.0))
    seen = ended.seen
    if seen is None:
        return Verdict(name=cell.name, faults=(f"bricked: {ended.trace[-600:]}",)), 0.0
    faults += [f"torn: {why}" for probe in (seen.at_start, seen.at_end) for why in wrong(probe, scenario)]
    if scenario.old and not (seen.at_start.release and seen.at_end.release):
        faults.append("bricked: the old release stopped serving")
    faults += [f"bricked: {error}" for error in seen.errors if error.startswith("InferenceError")]
    if cell.passes != (seen.active == scenario.wanted):
        faults.append(f"stuck: {seen.active} is active after {cell.looks} looks: {seen.errors[-3:]}")
    said = seen.told - {"failed"}  # which names nothing
    if seen.errors and not said:
        faults.append(f"unsaid: {seen.errors}")
    if not cell.passes and not said:
        faults.append("unsaid: no report says why")
    (device / "agent.toml").unlink()
    healed = recover(run, folder, scenario, static.url, cell.name)
    share = waste(proxy, static.stages[scenario.stage])
    return replace(healed, faults=(*faults, *healed.faults), struck=proxy.struck > 0), share


def waste(proxy: Proxy, files) -> float:
    """Bytes of answers for blobs, headers and all, over the sizes of the blobs that were asked for."""
    size = sum(len(files[f"blobs/{name}"]) for name in proxy.blobs)
    return proxy.blob_bytes / size - 1 if size else 0.0


def test_a_bad_network_delays_an_update_and_does_nothing_else(bench, static, world):
    chosen = cells()
    worlds = {size: world(size) for size in sorted({cell.size for cell in chosen})}
    found = bench.map(lambda run, folder, cell: endure(run, folder, worlds[cell.size], static, cell), chosen)
    faults, wasted = [], {}
    for name in dict.fromkeys(cell.name for cell in chosen):
        mine = [(cell, *outcome) for cell, outcome in zip(chosen, found, strict=True) if cell.name == name]
        notes = {}
        if all(cell.passes for cell, _, _ in mine):
            wasted[name] = max(share for _, _, share in mine)
            notes = {"waste": round(wasted[name], 4)}
        faults += results.keep(
            "network", name, [v for _, v, _ in mine], seed=[cell.seed for cell, _, _ in mine], **notes
        )
    assert not faults, "\n".join(faults)
    assert all(verdict.struck for verdict, _ in found)
    # After a reset, what the hub sent may never have been received: that cell's figure is only in the table.
    assert wasted["loss"] <= MOST_WASTE, wasted


def test_a_look_that_broke_off_is_told_of_though_the_next_one_succeeds(bench, static, world):
    cell = Cell(name="halved", plan=Plan(halved=True))
    ((verdict, _),) = bench.map(lambda run, folder, cell: endure(run, folder, world("small"), static, cell), [cell])
    assert verdict.struck and not verdict.faults


@pytest.mark.parametrize("plan", [Plan(cut=0.1, stall=0.1), Plan(reset=0.2)], ids=["loss", "resets"])
def test_at_most_a_tenth_is_received_twice(tmp_path, plan):
    data = random.Random(0).randbytes(256 << 10)
    blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    static = StaticHub()
    static.stages["one"] = {f"blobs/{blob.sha256}": data}
    broken = 0
    with serving(static) as hub:
        for seed in range(20 if results.FULL else 4):
            store, received = Store(tmp_path / str(seed), reserve=0), []
            with spoiled(hub.url, plan, seed) as (url, _):
                while not store.has(blob):
                    try:
                        source = HttpMirror(f"{url}/one")
                        fetch_blob(
                            source, store, blob, pace=DownloadPace(), progress=received.append, gap_timeout_s=0.3
                        )
                        store.accept(blob)
                    except (FetchError, UnreachableError):
                        broken += 1
            assert sum(received) <= (1 + MOST_WASTE) * len(data), f"seed {seed}"
    assert broken > 0
