"""Devices, groups and the fleet together: who is named, who is left alone, and what a stream weighs."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from cloud_hub.drift.baseline import ROWS
from cloud_hub.drift.basis import DIMS, basis_of_encoder, decode_basis, encode_basis, fit_basis
from cloud_hub.drift.stream_bytes import decode, encode
from cloud_hub.drift.streams import Settings, Stream, learn, new_stream
from cloud_hub.drift.watch import FLEET, SeenWindow, Watch, WatchFacts
from cloud_hub.drift.week import SLOT_S
from fleet.protocol.drift_encoder import fit_encoder
from fleet.protocol.durations import DAY_S
from fleet.protocol.sketch import Sketcher

K, WINDOW_S, N, NOISE = 8, 600.0, 50, 0.02
SETTINGS = Settings(period_s=DAY_S, first=30, budget_days=1000.0, weights=np.ones(K))


class Model:
    """Some devices of one model, which send their windows in turn."""

    def __init__(self, devices: int, groups: dict[str, tuple[str, ...]] | None = None, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.names = [f"d-{number}" for number in range(devices)]
        self.own = {name: 0.1 * self.random.normal(size=K) for name in self.names}  # devices differ
        self.groups, self.streams, self.now = groups or {}, dict[tuple[str, str], Stream](), 1e9

    def send(
        self, windows: int, moved: dict[str, np.ndarray] | None = None, *, step: int = 12, window_s: float = WINDOW_S
    ) -> Watch:
        """As many windows of every device; the hub looks after every few."""
        watch = None
        for start in range(0, windows, step):
            seen = []
            for _ in range(min(step, windows - start)):
                self.now += window_s
                for name in self.names:
                    row = self.own[name] + NOISE * self.random.normal(size=K) + (moved or {}).get(name, 0.0)
                    seen.append(SeenWindow(device=name, release=1, at=self.now, count=N, row=row))
            groups = len({name for some in self.groups.values() for name in some})
            facts = WatchFacts(devices=len(self.names), groups=groups, release=1, slot_s=window_s, now=self.now)
            kept = {key: decode(encode(stream)) for key, stream in self.streams.items()}  # as through the database
            watch = Watch(SETTINGS, kept, self.groups, facts)
            watch.count(seen)
            self.streams = watch.streams
        assert watch is not None
        return watch

    def over(self) -> set[tuple[str, str]]:
        return {key for key, stream in self.streams.items() if stream.evidence >= stream.limit(SETTINGS)}


def test_a_quiet_fleet_of_devices_that_differ_is_steady_after_a_day_and_raises_nothing():
    model = Model(6)
    model.send(100)
    assert {stream.state for stream in model.streams.values()} == {"provisional"}
    model.send(80)  # the fleet's day begins with the devices' first baselines
    assert {stream.state for stream in model.streams.values()} == {"steady"}
    model.send(150)
    assert not model.over()


def test_a_small_move_of_all_is_found_in_the_fleet_before_any_device_shows_it():
    model = Model(12)
    model.send(180)
    model.send(48, dict.fromkeys(model.names, np.full(K, 0.5 * NOISE)))
    assert model.over() == {FLEET}


def test_one_sick_device_of_twenty_is_named_alone():
    model = Model(20)
    model.send(150)
    model.send(24, {"d-7": np.full(K, 2 * NOISE)})
    assert model.over() == {("device", "d-7")}


def test_a_group_that_moved_is_named_with_its_label():
    names = [f"d-{number}" for number in range(10)]
    model = Model(10, {name: ("site=a",) if number < 5 else ("site=b",) for number, name in enumerate(names)})
    model.send(180)
    model.send(48, dict.fromkeys(names[:5], np.full(K, 0.5 * NOISE)))
    assert ("group", "site=a") in model.over() and ("group", "site=b") not in model.over()


def test_a_device_that_forges_its_windows_alarms_itself_and_no_other():
    model = Model(20)
    model.send(150)
    model.send(60, {"d-3": np.full(K, 1e3)})
    assert model.over() == {("device", "d-3")}
    # From the first day on it is only its own baseline that it makes.
    model = Model(20, seed=1)
    model.send(150, {"d-3": 1e3 * np.random.default_rng(0).normal(size=K)})
    model.send(30)
    assert model.over() <= {("device", "d-3")}


def test_who_is_there_changes_nothing_in_the_fleet():
    model = Model(12)
    model.send(180)
    model.names = model.names[:4]
    model.send(144)
    assert not model.over()


def test_a_late_device_is_held_against_its_group_until_it_has_a_baseline_of_its_own():
    model = Model(6)
    model.send(150)
    model.own |= {"like": model.own["d-0"], "unlike": np.full(K, 2.0)}
    model.names = [*model.names, "like", "unlike"]
    model.send(24)
    assert model.streams["device", "like"].state == "provisional"
    assert model.over() == {("device", "unlike")}


def test_a_release_of_its_own_begins_a_device_anew():
    model = Model(3)
    model.send(150)
    assert model.streams["device", "d-0"].state == "steady"
    facts = WatchFacts(devices=3, groups=0, release=2, slot_s=WINDOW_S, now=model.now)
    watch = Watch(SETTINGS, model.streams, {}, facts)
    watch.count([SeenWindow(device="d-0", release=2, at=model.now, count=N, row=np.zeros(K))])
    assert watch.streams["device", "d-0"].windows == 1 and watch.streams["device", "d-1"].windows == 150


def test_a_clock_that_was_set_back_stops_no_stream():
    model = Model(3)
    model.send(150)
    model.now -= 30 * DAY_S
    before = model.streams[FLEET].windows
    model.send(36)
    assert model.streams[FLEET].windows >= before + 24 and not model.over()
    model.send(36, dict.fromkeys(model.names, np.full(K, 2 * NOISE)))
    assert {("device", name) for name in model.names} <= model.over()


def test_a_clock_that_ran_ahead_for_one_look_keeps_no_week_from_being_learnt():
    """The visit of a time that never was stays open for ever otherwise, and every window after it is late."""
    model = Model(2)
    model.send(48, window_s=3600.0, step=1)
    model.now += 60 * DAY_S
    model.send(1, window_s=3600.0)
    for stream in model.streams.values():
        stream.aside = deepcopy(stream.week)
    model.now -= 60 * DAY_S
    known = {key: stream.week.finished for key, stream in model.streams.items() if stream.week is not None}
    assert len(known) >= 2
    for stream in model.streams.values():
        stream.based = max(stream.based, model.now + DAY_S)
    model.send(4 * 24, window_s=3600.0, step=1)
    for key, finished in known.items():
        stream = model.streams[key]
        assert stream.week is not None and stream.week.finished >= finished + 24, key
        assert stream.aside is not None and stream.aside.open[0] * SLOT_S <= model.now
        assert stream.based <= model.now


def test_a_move_after_the_first_day_is_found_while_a_baseline_is_still_in_the_making():
    model = Model(3)
    for hour in range(24):  # d-1 stays for hours: a day says too little of it
        model.send(6, {"d-1": np.full(K, 0.1 * (hour // 6 % 2))})
    model.send(12)
    assert model.streams["device", "d-1"].state == "provisional" and not model.over()
    model.send(24, {"d-1": np.full(K, 1.0)})
    assert ("device", "d-1") in model.over()
    assert model.streams["device", "d-1"].state == "provisional"


@pytest.mark.parametrize("swing", [0.4, 0.9])
def test_nights_are_usual(swing: float):
    """From nine in the morning on: the first evening is no alarm, and the nights that follow are in the baseline."""
    model, step_s, night = Model(2), 1200.0, np.eye(K)[0] * swing
    model.now = 1.7e9 // DAY_S * DAY_S + 9 * 3600 - step_s
    over = set()
    for _ in range(12 * 24):
        dark = not 6 <= (model.now + step_s) % DAY_S / 3600 < 20
        model.send(3, dict.fromkeys(model.names, night) if dark else None, window_s=step_s)
        over |= model.over()
    assert over == set()
    bank = model.streams["device", "d-0"].bank
    assert bank is not None and 0.3 * swing < bank.mean[0, 0] - model.own["d-0"][0] < 0.6 * swing


def test_late_windows_of_one_device_are_not_many_devices():
    model = Model(6)
    model.send(180)
    model.names = model.names[:5]
    model.send(120)
    before = model.streams[FLEET]
    late = [
        SeenWindow(device="d-5", release=1, at=model.now - WINDOW_S * ago, count=N, row=model.own["d-5"])
        for ago in range(119, 0, -1)
    ]
    facts = WatchFacts(devices=6, groups=0, release=1, slot_s=WINDOW_S, now=model.now)
    watch = Watch(SETTINGS, model.streams, {}, facts)
    open_devices = before.open_devices
    watch.count(late)
    assert watch.streams[FLEET].open_devices == open_devices


def test_one_odd_device_does_not_end_the_watch_over_new_ones():
    model = Model(10)
    model.own = {name: 0.02 * model.random.normal(size=K) for name in model.names}
    model.own["d-9"] = model.own["d-9"] + np.eye(K)[0]
    model.send(40)
    model.own |= {"like": model.own["d-1"], "unlike": model.own["d-1"] - 1.2 * np.eye(K)[1]}
    model.names = [*model.names, "like", "unlike"]
    model.send(24)
    assert model.over() == {("device", "unlike")}


@pytest.mark.parametrize(("windows", "most"), [(10_000, 16 << 10), (150, 6 << 10)], ids=["learning", "steady"])
def test_a_stream_is_small_whatever_it_has_seen(windows, most):
    random = np.random.default_rng(0)
    settings = Settings(
        period_s=1e9 if windows > 1000 else float(DAY_S), first=30, budget_days=1000.0, weights=np.ones(DIMS)
    )
    stream = new_stream("device", "cam-1", 1, 0.5, DIMS)
    for number in range(windows):
        if stream.history is not None:
            learn(stream, random.normal(size=DIMS), WINDOW_S * number, N, settings)
    data = encode(stream)
    assert len(data) <= most
    again = decode(data)
    assert again.state == stream.state and encode(again)[:50] == data[:50]
    if stream.history is not None:
        assert again.history is not None and len(stream.history.rows) <= ROWS
        assert np.allclose(again.history.rows, stream.history.rows, atol=1e-2)
    else:
        assert stream.bank is not None and again.bank is not None
        assert np.allclose(again.bank.covariance, stream.bank.covariance, rtol=1e-5)


def test_bytes_of_another_version_are_refused():
    with pytest.raises(ValueError, match="schema"):
        decode(encode(new_stream("device", "d", 1, 1.0, K)).replace(b"\x01", b"\x09", 1))


def test_a_basis_comes_back_from_its_bytes():
    basis = fit_basis(np.random.default_rng(0).normal(size=(60, 64)), np.zeros(60, np.int64))
    again = decode_basis(encode_basis(basis))
    assert np.allclose(again.directions, basis.directions, atol=1e-3)
    assert np.allclose(again.weights, basis.weights, rtol=1e-6)


def test_an_encoder_alone_gives_directions_in_which_its_inputs_move():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 20)) @ random.normal(size=(20, 20))
    encoder = fit_encoder(x, dims=8, features=256)
    sketcher, basis = Sketcher(encoder), basis_of_encoder(encoder)
    plain, moved = (sketcher.features(rows).mean(axis=0) for rows in (x, x + 0.3 * x.std(axis=0)))
    assert np.linalg.norm((moved - plain) @ basis.directions) > 0.8 * np.linalg.norm(moved - plain)
    assert np.array_equal(basis_of_encoder(encoder).directions, basis.directions)
