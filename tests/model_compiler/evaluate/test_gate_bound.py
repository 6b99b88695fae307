"""A gate that reads the interval, not the point; and what of a gate and of targets survives a retrain."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fleet.protocol.manifest import Blob, Gate, decode_manifest, encode_manifest
from fleet.protocol.manifest_detail import detail_of, encode_detail, without_detail
from model_compiler import metrics
from model_compiler.inputs.deferral_target import DeferTarget, target_in
from model_compiler.inputs.former_release import Former
from tests.golden.examples import MANIFEST, VERDICT


def test_the_worse_end_of_the_interval_has_to_keep_a_term() -> None:
    """The accuracy is .96, with an interval from .93 on."""
    assert Gate(min_metric=0.95).broken_by(VERDICT) == []
    assert Gate(min_metric=0.92, judged_by="bound").broken_by(VERDICT) == []
    (why,) = Gate(min_metric=0.95, judged_by="bound").broken_by(VERDICT)
    assert why == "accuracy with 95 % confidence is 0.93, at least 0.95 is allowed"
    error = msgspec.structs.replace(VERDICT, metric="rmse", higher_is_better=False)
    assert Gate(min_metric=0.97, judged_by="bound").broken_by(error)
    assert not Gate(min_metric=0.99, judged_by="bound").broken_by(error)


def test_a_drop_without_a_bound_keeps_no_term() -> None:
    gate = Gate(max_drop_points=2.0, judged_by="bound")
    assert Gate(max_drop_points=2.0).broken_by(VERDICT) == [] and len(gate.broken_by(VERDICT)) == 1
    assert gate.broken_by(msgspec.structs.replace(VERDICT, drop_bound=1.9)) == []
    assert len(gate.broken_by(msgspec.structs.replace(VERDICT, drop_bound=2.1))) == 1


def test_agents_of_0_1_read_such_a_gate_as_one_of_points() -> None:
    made = msgspec.structs.replace(MANIFEST, gate=Gate(min_metric=0.9, judged_by="bound"))
    document = msgspec.json.decode(encode_manifest(made))
    assert document["gate"].pop("judged_by") == "bound"
    assert decode_manifest(msgspec.json.encode(document)).gate == Gate(min_metric=0.9)


def scores(right: np.ndarray) -> dict[str, np.ndarray]:
    """Answers of two classes; what is right is class 0."""
    return {"y": np.stack([right, ~right], axis=1).astype(np.float32)}


@pytest.mark.parametrize(("rows", "lost", "won"), [(60, 0.03, 0.0), (200, 0.05, 0.03), (200, 0.02, 0.0)])
def test_a_drop_is_seldom_larger_than_its_bound(rows: int, lost: float, won: float) -> None:
    metric, y, beyond = metrics.parse("accuracy"), np.zeros(rows, np.int64), 0
    random = np.random.default_rng(0)
    for _ in range(400):
        draw = random.random(rows)
        before = draw >= won  # the new one wins on the others
        after = (draw < won) | (draw >= won + lost)
        beyond += metric.most_points(scores(after), scores(before), y) < 100 * (lost - won)
    assert beyond <= 0.05 * 400 + 9  # two standard errors


def test_no_loss_on_a_few_rows_shows_little_and_on_many_much() -> None:
    metric, right = metrics.parse("accuracy"), np.ones(1000, bool)

    def most(rows: int) -> float:
        same = scores(right[:rows])
        return metric.most_points(same, same, np.zeros(rows, np.int64))

    assert most(20) > 10 and most(1000) < 0.5
    assert metric.most_points(scores(~right), scores(right), np.zeros(1000, np.int64)) == 100


def test_an_error_grows_by_at_most_what_pairs_of_rows_show() -> None:
    random, metric = np.random.default_rng(1), metrics.parse("rmse")
    y = random.normal(size=400)
    noise = random.normal(size=400)
    before, after = {"y": y + 0.1 * noise}, {"y": y + 0.11 * noise}
    assert 9.9 < metric.most_points(after, before, y) < 10.5  # pairs: the noise itself does not count
    assert metric.most_points({"y": y[:1]}, {"y": y[:1]}, y[:1]) == 0


@pytest.mark.parametrize("target", [DeferTarget(), DeferTarget(cloud=0.025), DeferTarget(error=0.015, cloud=None)])
def test_a_target_is_read_from_its_words(target: DeferTarget) -> None:
    assert target_in(target.describe()).describe() == target.describe()


@pytest.mark.parametrize("words", ["", "error<=2%", "at most 400 % error", "at most 1e % error", "at most -1 % error"])
def test_other_words_are_no_target(words: str) -> None:
    assert target_in(words) is None


def test_a_target_that_could_not_be_promised_is_asked_for_again() -> None:
    data = encode_detail(detail_of(MANIFEST, "at most 1 % error"))
    blob = Blob(sha256="8" * 64, size=len(data))
    bare = without_detail(MANIFEST, blob)
    assert Former(bare, {blob.sha256: data}).target == "at most 1 % error"
    assert Former(bare).target == Former(bare, {blob.sha256: b"[]"}).target == MANIFEST.variants[0].deferral.target
    assert Former(MANIFEST).metric == "accuracy"
