"""Evidence adds up for moves that no window shows, names the stream, and is rare while nothing happens."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import History, fit
from cloud_hub.drift.basis import DIMS, fit_basis
from cloud_hub.drift.signed import Bank
from tests.support.size import sized

K, DAY, WINDOW_S, N = 8, 144, 600.0, 50
ONES = np.ones(K)
NOISE = 0.02  # of a window's mean in each coordinate


def baselines(random: np.random.Generator, streams: int) -> Bank:
    made = []
    for _ in range(streams):
        history = History(K)
        history.extend(NOISE * random.normal(size=(DAY, K)), WINDOW_S * np.arange(DAY), np.full(DAY, N))
        made.append(fit(history, ONES))
    return Bank.begin(made, [1 / streams] * streams, ONES, WINDOW_S * DAY)


def run(bank: Bank, rows: np.ndarray, start: int = 0, counts: int = N) -> None:
    """Windows (steps, streams, K)."""
    for number, row in enumerate(rows):
        at = np.full(len(row), WINDOW_S * (DAY + start + number + 1))
        signed.step(bank, ONES, row, np.full(len(row), float(counts)), at)


def test_false_alarms_are_rare():
    streams, steps = sized(40, 400), sized(300, 6000)
    random = np.random.default_rng(0)
    bank, limit, alarms = baselines(random, streams), signed.limit(10, DAY, 1.0), 0
    for _ in range(steps):
        run(bank, NOISE * random.normal(size=(1, streams, K)))
        over = bank.log_e >= limit
        alarms += int(over.sum())
        bank.logs[over] = 0
    assert alarms <= streams * steps / DAY / 10  # one in ten days of a stream is promised here


@pytest.mark.parametrize(("size", "soon"), [(1.0, 60), (0.6, 300)])
def test_a_move_smaller_than_one_windows_noise_is_found_with_time(size, soon):
    random = np.random.default_rng(1)
    bank, direction = baselines(random, 20), np.ones(K) / np.sqrt(K)
    run(bank, NOISE * random.normal(size=(100, 20, K)))
    assert (bank.log_e < 5).all()
    moved = NOISE * (random.normal(size=(soon, 20, K)) + size * np.sqrt(K) * direction)
    run(bank, moved, start=100)
    assert (bank.log_e >= signed.limit(1000, DAY, 1 / 20)).mean() >= 0.95


def test_since_is_the_moment_from_which_the_evidence_adds_up():
    random = np.random.default_rng(2)
    bank = baselines(random, 1)
    run(bank, NOISE * random.normal(size=(200, 1, K)))
    run(bank, NOISE * (random.normal(size=(60, 1, K)) + 1.0), start=200)
    place = np.unravel_index(bank.logs[0].argmax(), bank.logs[0].shape)
    began = bank.since[0][place] / WINDOW_S - DAY
    assert 195 <= began <= 215


def test_one_window_is_one_window_whatever_it_holds():
    """A single forged window raises nothing, and a hundred bad ones on one stream leave the others as they were."""
    random = np.random.default_rng(3)
    bank = baselines(random, 3)
    quiet = NOISE * random.normal(size=(100, 3, K))
    quiet[0, 0] = 1e6
    run(bank, quiet[:1])
    assert bank.log_e[0] < signed.limit(1000, DAY, 1 / 3)
    quiet[:, 0] = 1.0
    run(bank, quiet[1:], start=1)
    assert bank.log_e[0] > signed.limit(1000, DAY, 1 / 3) and (bank.log_e[1:] < 2).all()


def test_windows_of_few_inputs_are_less_sure():
    random = np.random.default_rng(4)
    bank = baselines(random, 50)
    run(bank, np.sqrt(10) * NOISE * random.normal(size=(200, 50, K)), counts=N // 10)
    assert (bank.log_e < signed.limit(1000, DAY, 1 / 50)).all()


def test_what_is_less_than_the_least_effect_is_no_alarm_and_what_is_more_still_is():
    """A lasting move that a narrow test finds soon, and that nobody of this policy would act on."""
    random = np.random.default_rng(9)
    moved = np.zeros((400, 10, K))
    moved[:, :5] = 0.03 / np.sqrt(K)  # a distance of 0.03
    moved[:, 5:] = 0.12 / np.sqrt(K)
    rows = moved + NOISE * random.normal(size=moved.shape)
    found = {}
    for least in (0.005, 0.06):
        bank = baselines(np.random.default_rng(1), 10)
        for number, row in enumerate(rows):
            at = np.full(10, WINDOW_S * (DAY + number + 1))
            signed.step(bank, ONES, row, np.full(10, float(N)), at, least=least)
        found[least] = bank.log_e >= signed.limit(1000, DAY, 1 / 10)
    assert found[0.005].all(), "both are found by default"
    assert not found[0.06][:5].any() and found[0.06][5:].all()


def test_before_a_baseline_is_steady_only_what_lies_far_outside_counts():
    random = np.random.default_rng(5)
    history = History(K)
    history.extend(NOISE * random.normal(size=(DAY, K)), WINDOW_S * np.arange(DAY), np.full(DAY, N))
    bank = Bank.begin([fit(history, ONES, over=False)] * 2, [0.5, 0.5], ONES, WINDOW_S * DAY)
    rows = NOISE * random.normal(size=(200, 2, K))
    rows[:, 0] += 0.05  # plain to see, but what is usual is not known yet
    rows[:, 1] += 0.3
    run(bank, rows)
    limit = signed.limit(1000, DAY, 0.5)
    assert bank.log_e[0] < limit <= bank.log_e[1]


def test_a_quiet_stream_cannot_bank_credit_against_a_later_change():
    random = np.random.default_rng(6)
    bank = baselines(random, 10)
    run(bank, NOISE * random.normal(size=(300, 10, K)))
    assert bank.logs.min() > -10


def test_the_basis_sees_a_move_across_what_windows_usually_do():
    random = np.random.default_rng(7)
    features = 128
    usual = np.linalg.qr(random.normal(size=(features, 10)))[0]
    windows = random.normal(size=(300, 10)) @ usual.T + 1e-3 * random.normal(size=(300, features))
    windows[:150] += 5.0  # devices that differ are no direction
    basis = fit_basis(windows, np.repeat([0, 1], 150))
    assert basis.directions.shape == (features, DIMS)
    assert np.allclose(basis.directions.T @ basis.directions, np.eye(DIMS), atol=1e-5)
    assert np.linalg.norm(usual.T @ basis.directions) ** 2 == pytest.approx(10, abs=0.1)
    across = random.normal(size=features)
    across -= usual @ (usual.T @ across)
    assert np.linalg.norm(across @ basis.directions) > 0.2 * np.linalg.norm(across)
    assert basis.weights[-1] > basis.weights[0]


def test_a_basis_of_few_features_keeps_them_all():
    basis = fit_basis(np.random.default_rng(8).normal(size=(50, 8)), np.zeros(50, np.int64))
    assert basis.directions.shape == (8, 8)
