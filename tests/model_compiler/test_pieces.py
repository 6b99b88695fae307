"""The compiler's pure parts: data checks, verdict, deferral, vectors, the release directory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol.manifest import Lineage, Manifest, SelfTest, decode_manifest
from fleet.protocol.selftest import check_vectors, decode_vectors
from model_compiler import intervals, metrics
from model_compiler.errors import DataError, SourceError
from model_compiler.evaluate import deferral, rightness, tasking, verdict
from model_compiler.inputs.dataset import check_labels, check_pair, load_dataset, make_dataset
from model_compiler.inputs.deferral_target import DeferTarget
from model_compiler.inputs.sources import load_torch
from model_compiler.package import pack, vectors
from model_compiler.report.document import files
from tests.support.manifests import small_release
from tests.support.size import sized

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = np.arange(40) % 4


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[:0], Y[:0], "more than none"),
        (X, Y[:5], "equal"),
        (np.where(X > 2, np.nan, X), Y, "NaN"),
        (X[:, 0], Y, "shape"),
        (np.full((40, 2), 1j), Y, "numbers"),
        (np.full((40, 2), None), Y, "text"),
    ],
)
def test_bad_data_is_named(x: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_dataset(x, y, "set")


def test_files_that_are_not_a_dataset_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez(good, x=X, y=Y)
    assert len(load_dataset(good)) == 40
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", X)
    np.savez(tmp_path / "pickled.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    np.savez(tmp_path / "unnamed.npz", X)
    for name in ("cut.npz", "empty.npz", "one.npy", "pickled.npz", "unnamed.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name)


def test_validation_must_be_unseen_and_within_the_classes() -> None:
    data = make_dataset(X, Y, "set")
    with pytest.raises(DataError, match="1 validation inputs are also"):
        check_pair(data, make_dataset(np.concatenate([X[:1], X[1:] + 1]), Y, "set"))
    with pytest.raises(DataError, match="0 to 2"):
        check_labels(data.labels, 3)


def test_wilson_matches_published_values() -> None:
    low, high = intervals.wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert intervals.wilson(0, 20)[0] == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_holds_the_share(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, total))
    low, high = intervals.wilson(hits, total)
    assert 0.0 <= low <= hits / total + 1e-9 and hits / total - 1e-9 <= high <= 1.0


def test_the_worst_class_counts_not_the_mean() -> None:
    y = np.array([0, 0, 1, 1, 2, 2])
    reference, found = ({"logits": np.eye(3)[best]} for best in (y, [0, 0, 1, 0, 2, 2]))
    assert verdict.worst_class_drop(verdict.recalls(reference, y), verdict.recalls(found, y)) == 0.5


def test_the_verdict_says_worse_and_slower() -> None:
    reference = np.eye(4, dtype=np.float32)[Y]
    outputs = reference.copy()
    outputs[Y == 2] = np.eye(4, dtype=np.float32)[1]
    found = verdict.judge(
        metrics.parse("accuracy"),
        {"logits": outputs},
        {"logits": reference},
        Y,
        cost=verdict.Figures(9, 30, 40),
        reference_cost=verdict.Figures(9, 10, 20),
    )
    assert (found.value, found.reference, found.agreement, found.worst_class_drop) == (0.75, 1.0, 0.75, 1.0)
    assert found.drop_points == pytest.approx(25)
    assert [note.split(":")[0] for note in found.notes] == ["worse", "slower"]


def test_temperature_recovers_an_overconfident_scale() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(4000, 5))
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([rng.choice(5, p=row) for row in chance])
    assert deferral.fit_temperature(logits * 3, y, apply_softmax=True) == pytest.approx(3, rel=0.1)


def test_deferral_keeps_its_target() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(400, 4)) + 2 * np.eye(4)[np.arange(400) % 4]
    y = np.arange(400) % 4
    share = deferral.fit(logits, y, y, DeferTarget(cloud=0.2), apply_softmax=True)
    error = deferral.fit(logits, y, y, DeferTarget(error=0.05), apply_softmax=True)
    for fitted, most_cloud, most_error in ((share, 0.2, 1.0), (error, 1.0, 0.05)):
        p = deferral.protocol.probabilities(logits, temperature=fitted.temperature)
        deferred = p.max(axis=1) < fitted.threshold
        assert 0 < deferred.mean() <= most_cloud
        assert ((p.argmax(axis=1) != y) & ~deferred).mean() <= most_error


def test_a_sure_student_needs_few_calls_for_an_error_target() -> None:
    rng = np.random.default_rng(1)
    y, sure = rng.integers(0, 3, 1000), rng.random(1000) < 0.8
    logits = rng.normal(size=(1000, 3)) * 0.2
    logits[np.arange(1000), np.where(sure, y, (y + 1) % 3)] += np.where(sure, 6.0, 1.0)
    found = deferral.fit(logits, y, y, DeferTarget(error=0.01, cloud=None), apply_softmax=True)
    at = next(p for p in found.curve if p.threshold >= found.threshold)
    assert at.combined_accuracy >= 0.98 and at.cloud_share <= 0.31


def test_vectors_cover_the_classes_and_leave_out_near_ties() -> None:
    outputs = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32)
    outputs[0] = [1.0, 1.0, 0.0, 0.0]
    both = {"a": {"logits": outputs}, "b": {"logits": outputs + 0.01}}
    rows = vectors.choose(both, outputs.argmax(axis=1), classes=True, count=12)
    assert len(set(rows)) == 12 and 0 not in rows
    assert set(outputs[rows].argmax(axis=1)) == {0, 1, 2, 3}


def test_vectors_pass_the_right_model_and_fail_a_flipped_one() -> None:
    weights = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    rounded = np.round(weights * 16) / 16
    both = {"a": {"logits": X @ weights}, "b": {"logits": X @ rounded}}
    groups = (X @ weights).argmax(axis=1)
    section, _, data = vectors.build(
        make_dataset(X, None, "x"), both, groups, vectors.Rows(("x",), answers=True), classes=True
    )
    assert 8 <= section.vectors <= 16

    def passed(section: SelfTest, weights: np.ndarray) -> bool:
        return check_vectors(decode_vectors(data), section, "a", lambda named: {"logits": named["x"] @ weights}).passed

    flipped = weights.copy()
    flipped[2] = -flipped[2]
    assert passed(section, weights * np.float32(1 + 1e-5))
    assert not passed(section, flipped)


def test_only_an_earlier_release_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SourceError, match="not a release directory"):
        pack.check_replaceable(tmp_path)
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "manifest.json").write_text("{}")
    pack.check_replaceable(tmp_path)  # an earlier release may be replaced
    pack.check_replaceable(tmp_path / "new")


def release(note: str) -> Manifest:
    return msgspec.structs.replace(decode_manifest(small_release()[0]), lineage=Lineage(recipe=note))


DOCUMENT = {"metric": "accuracy", "labels": [], "gate": {}, "variants": {}, "left_out": {}, "lineage": {"tools": {}}}


def test_a_replaced_release_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "release"
    pack.write_release(out, release("old"), [], files(DOCUMENT))
    rename, calls = Path.replace, list[Path]()

    def fail_second(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError("the disk is full")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_second)
    with pytest.raises(SourceError, match="full"):
        pack.write_release(out, release("new"), [], files(DOCUMENT))
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
    assert decode_manifest((out / "manifest.json").read_bytes()).lineage.recipe == "old"
    monkeypatch.undo()
    pack.write_release(out, release("new"), [], files(DOCUMENT))
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
    assert decode_manifest((out / "manifest.json").read_bytes()).lineage.recipe == "new"


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("def net(:", "SyntaxError"), ("def net(): return 3", "torch module")],
)
def test_a_source_file_that_fails_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(text)
    with pytest.raises(SourceError, match=rf"model\.py: .*{words}"):
        load_torch(f"{tmp_path / 'model.py'}:net", None)


@pytest.mark.parametrize(
    ("text", "outputs", "groups"),
    [
        ("regression:tolerance=1", np.arange(12.0)[:, None], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        ("multi-label", np.eye(2)[[0, 1, 0, 1]], [0, 1, 0, 1]),
        ("embedding", np.eye(3), [0, 0, 0]),
    ],
)
def test_a_few_rows_stand_for_what_answers_have_in_common(text: str, outputs: np.ndarray, groups: list[int]) -> None:
    spec = tasking.parse(text)
    found = tasking.groups_of(spec, ("a", "b"), {"y": outputs.astype(np.float32)}, classes=False)
    assert found.tolist() == groups


def test_a_variant_whose_task_says_how_sure_it_is_defers_by_that() -> None:
    sure = np.linspace(0, 1, 200)
    right = sure > 0.3
    found = deferral.fit_sure(sure, right, np.ones(200, bool), DeferTarget(error=0.0, cloud=None))
    assert found.temperature == 1.0 and found.threshold == pytest.approx(0.3, abs=0.02)


def population(seed: int, rows: int = 6000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An edge model's confidence, its rightness (93 %) and that of the cloud (98.5 %); (rows,) each."""
    rng = np.random.default_rng(seed)
    sure = rng.beta(6, 1.2, rows)
    right = rng.random(rows) < np.clip(0.93 + 0.6 * (sure - sure.mean()), 0, 1)
    return sure, right, rng.random(rows) < 0.985


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize(
    "target",
    [
        DeferTarget(error=0.05, cloud=None),
        DeferTarget(error=0.2, cloud=None),
        DeferTarget(cloud=0.1),
        DeferTarget(cloud=0.02),
    ],
    ids=DeferTarget.describe,
)
def test_a_signed_target_holds_on_the_whole_population(target: DeferTarget, n: int) -> None:
    sure, right, cloud = population(n)
    draws, broken, signed = sized(100, 2000), 0, 0
    rng = np.random.default_rng(n)
    for _ in range(draws):
        rows = rng.choice(len(sure), n, replace=False)
        found = deferral.fit_sure(sure[rows], right[rows], cloud[rows], target)
        deferred = sure < found.threshold
        bad = deferred.mean() if target.error is None else (~np.where(deferred, cloud, right)).mean()
        signed += bool(found.target)
        broken += bool(found.target) and bad > (target.cloud if target.error is None else target.error)
    assert broken <= 0.05 * draws
    assert signed >= (0.9 if n == 500 or target.error != 0.05 else 0.1) * draws


def test_a_target_out_of_reach_is_said_and_not_signed() -> None:
    sure, right, cloud = population(1, 500)
    target = DeferTarget(error=0.0001, cloud=None)
    found = deferral.fit_sure(sure, right, cloud, target)
    assert (found.target, found.level) == ("", 0.0)
    said = deferral.unmet(found, target)
    assert "at most 0.01 % error could not be shown with 95 % confidence" in said and "best error seen is" in said
    wrong = (~np.where(sure < found.threshold, cloud, right)).mean()
    assert wrong <= min((~cloud).mean(), (~right).mean()), "the threshold does the best that it can"
    few = deferral.fit_sure(sure[:20], right[:20], cloud[:20], DeferTarget(cloud=0.02))
    assert few.threshold == 0.0 and "never asks the cloud" in deferral.unmet(few, DeferTarget(cloud=0.02))
    alike = deferral.fit_sure(np.full(500, 0.9), right, cloud, DeferTarget(cloud=0.1))
    assert "too much alike" in deferral.unmet(alike, DeferTarget(cloud=0.1))


def test_a_cloud_that_is_worse_than_the_edge_is_asked_only_where_it_helps() -> None:
    """All answers from the cloud would break the target, and so would none; the rows in between do not."""
    rng = np.random.default_rng(0)
    sure = rng.random(2000)
    right, cloud = sure > 0.1, rng.random(2000) < 0.9
    found = deferral.fit_sure(sure, right, cloud, DeferTarget(error=0.05, cloud=None))
    assert found.target and 0.05 < found.threshold < 0.5


def test_rightness_is_the_task_s() -> None:
    outputs = {"y": np.array([[1.0], [2.0], [9.0]], np.float32)}
    task, found = tasking.reading(tasking.parse("regression:tolerance=0.5"), (), outputs)
    assert rightness.right(task, found.answers, np.array([1.2, 2.0, 2.0])).tolist() == [True, True, False]
    task, found = tasking.reading(tasking.parse("anomaly-score:threshold=2"), (), outputs)
    assert rightness.right(task, found.answers, np.array([0, 1, 0])).tolist() == [True, True, False]
    task, found = tasking.reading(tasking.parse("embedding"), (), outputs)
    assert rightness.right(task, found.answers, np.array([0, 1, 0])) is None
    task, found = tasking.reading(
        tasking.parse("detection:layout=rows"), ("cup",), {"b": np.ones((2, 1, 6), np.float32)}
    )
    assert rightness.right(task, found.answers, np.array([1, 0])) is None, "labels of a metric of its own"
