"""The update machine for any history: what serves is always proven or on probation, and nothing is tried in vain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from edge_agent.ports import ReleaseHealth
from edge_agent.update.rules import machine, probation
from edge_agent.update.rules.model_state import HeldRelease, ModelState, UpdateTarget
from fleet.protocol.channel import Probation, RolloutRef
from fleet.protocol.codec import decode_json, encode_json
from tests.support.size import examples

POLICY = Probation(seconds=100.0, requests=10, max_failures=0, max_starts=3)


def held(number: int) -> HeldRelease:
    return HeldRelease(release=number, variant="v", manifest=f"{number:064x}")


def rollout(number: int, attempt: int) -> RolloutRef:
    return RolloutRef(id=f"r{number}", attempt=attempt, release=number, from_release=1, share_ppm=1, salt="s")


TARGETS = st.builds(
    lambda number, attempt: UpdateTarget(held=held(number), rollout=rollout(number, attempt) if attempt else None),
    st.integers(1, 4),
    st.integers(0, 2),
)


class Histories(RuleBasedStateMachine):
    """Any order of offers, steps, faults, health and kills."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ModelState()
        self.proven: set[int] = set()
        self.starts = 0

    @rule(wish=TARGETS)
    def offered(self, wish: UpdateTarget) -> None:
        before = self.state
        new = machine.wanted(before, wish, POLICY)
        if new is None:
            return
        if new.state == "fetching":
            assert before.rejection(wish) is None and wish.held != before.active
        if new.active != before.active:  # a return: only to what is kept
            assert new.active == before.previous and new.state == "committed"
        self.state, self.starts = new, 0

    @precondition(lambda self: self.state.state in ("fetching", "verifying", "trying"))
    @rule(broken=st.sampled_from(["", "", "", "unreachable"]))
    def stepped(self, broken: str) -> None:
        step = {"fetching": machine.verifying, "verifying": machine.trying}.get(self.state.state)
        if broken:
            self.state = machine.interrupted(self.state, broken, "it broke off")
        elif step is not None:
            self.state = step(self.state)
        else:
            self.state = machine.activated(self.state)

    @precondition(lambda self: self.state.state == "trying")
    @rule()
    def failed_selftest(self) -> None:
        assert self.state.target is not None
        target = self.state.target
        self.state = machine.rolled_back(self.state, "selftest-failed", "")
        assert self.state.rejection(target) is not None

    @precondition(lambda self: self.state.state == "trying")
    @rule()
    def selftest_killed(self) -> None:
        assert self.state.target is not None
        target, starts = self.state.target, self.state.starts
        self.state, again = machine.killed(self.state, "code -9")
        assert again == (starts == 0) and again == (self.state.rejection(target) is None)

    @precondition(lambda self: self.state.state == "probation")
    @rule(requests=st.integers(0, 20), failures=st.integers(0, 2), served_s=st.floats(0, 200))
    def health(self, requests: int, failures: int, served_s: float) -> None:
        before = self.state
        new = probation.judged(before, ReleaseHealth(requests=max(requests, failures), failures=failures), served_s)
        if new is None:
            assert failures == 0 and requests < 10 and served_s < 100
            return
        if failures:
            assert new.state == "rolled_back" and new.active == before.previous
        else:
            assert new.state == "committed" and new.previous == before.previous
            self.proven.add(new.active.release)
        self.state = new

    @precondition(lambda self: self.state.state == "committed" and self.state.untried)
    @rule(requests=st.integers(0, 2), failures=st.integers(0, 2))
    def first_requests(self, requests: int, failures: int) -> None:
        before = self.state
        health = ReleaseHealth(requests=max(requests, failures), failures=failures)
        self.state = probation.judged(before, health, 1e9) or before
        if failures and before.previous is not None:
            assert self.state.state == "rolled_back" and self.state.active == before.previous

    @rule()
    def killed(self) -> None:
        unsure = self.state.state in ("trying", "probation")
        stored = decode_json(encode_json(self.state), ModelState, limit=1 << 20)
        assert stored == self.state
        self.state = machine.resumed(stored)
        assert self.state.state not in ("fetching", "verifying", "trying")
        self.starts = self.starts + 1 if unsure else self.starts
        if self.state.state == "probation":
            assert self.state.starts <= POLICY.max_starts

    @precondition(lambda self: self.state.state == "probation")
    @rule()
    def cannot_be_loaded_now(self) -> None:
        assert self.state.target is not None
        target = self.state.target
        self.state = machine.withdrawn(self.state, "disk-error", "EIO")
        assert self.state.rejection(target) is None

    @rule()
    def blob_lost(self) -> None:
        if self.state.active is not None and self.state.state in ("committed", "rolled_back"):
            self.state = machine.damaged(self.state, "bytes changed")

    @invariant()
    def what_serves_is_proven_or_on_probation(self) -> None:
        active = self.state.active
        assert active is None or self.state.state == "probation" or active.release in self.proven

    @invariant()
    def the_way_back_is_proven(self) -> None:
        assert self.state.previous is None or self.state.previous.release in self.proven

    @invariant()
    def a_step_has_a_target(self) -> None:
        under_way = self.state.state in ("fetching", "verifying", "trying", "probation")
        assert under_way == (self.state.target is not None)

    @invariant()
    def a_failure_has_a_reason(self) -> None:
        assert self.state.state != "rolled_back" or self.state.reason


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=examples(150), stateful_step_count=30, deadline=None)


def test_a_process_that_does_not_serve_is_no_start_of_a_release_on_probation() -> None:
    begun = machine.trying(machine.verifying(machine.wanted(ModelState(), UpdateTarget(held=held(2)), POLICY)))
    trial = machine.activated(begun)
    assert machine.resumed(trial, to_serve=False) == trial and machine.resumed(trial).starts == 1
    cut = machine.resumed(begun, to_serve=False)  # an agent did stop while it tried this one
    assert (cut.state, cut.reason, cut.starts) == ("idle", "interrupted", 1)


def test_a_crash_loop_in_probation_rolls_back() -> None:
    state = on_probation(2, ModelState(state="committed", active=held(1)))
    for _ in range(POLICY.max_starts):
        state = machine.resumed(state)
        assert state.state == "probation"
    state = machine.resumed(state)
    assert (state.state, state.reason, state.active) == ("rolled_back", "crash-loop", held(1))


def test_a_release_that_kills_the_agent_while_trying_is_given_up() -> None:
    state, target = ModelState(state="committed", active=held(1)), UpdateTarget(held=held(2))
    for _ in range(POLICY.max_starts):
        begun = machine.wanted(state, target, POLICY)
        assert begun is not None
        state = machine.resumed(machine.trying(machine.verifying(begun)))
        assert state.state == "idle"
    begun = machine.wanted(state, target, POLICY)
    assert begun is not None
    state = machine.resumed(machine.trying(machine.verifying(begun)))
    assert (state.state, state.reason) == ("rolled_back", "crash-loop")
    assert machine.wanted(state, target, POLICY) is None


def test_a_retry_raises_the_attempt_and_is_tried() -> None:
    first = UpdateTarget(held=held(2), rollout=rollout(2, 1))
    begun = machine.wanted(ModelState(state="committed", active=held(1)), first, POLICY)
    assert begun is not None
    state = machine.rolled_back(machine.trying(machine.verifying(begun)), "selftest-failed", "")
    assert machine.wanted(state, first, POLICY) is None
    again = machine.wanted(state, UpdateTarget(held=held(2), rollout=rollout(2, 2)), POLICY)
    assert again is not None and again.state == "fetching"


def test_an_abort_in_probation_returns_to_the_default_at_once() -> None:
    state = on_probation(2, ModelState(state="committed", active=held(1)))
    back = machine.wanted(state, UpdateTarget(held=held(1)), POLICY)
    assert back is not None and (back.state, back.active, back.rejected) == ("committed", held(1), ())


def test_a_release_that_is_slower_than_the_policy_allows_rolls_back() -> None:
    policy = replace(POLICY, requests=100, max_p95_us=500.0)
    state = replace(on_probation(2, ModelState(state="committed", active=held(1))), probation=policy)
    assert probation.judged(state, ReleaseHealth(requests=30, failures=0, timed=30, p95_us=500.0), 1.0) is None
    assert (
        probation.judged(state, ReleaseHealth(requests=5, failures=0, timed=5, p95_us=9e9), 1.0) is None
    )  # too few to say
    slow = probation.judged(state, ReleaseHealth(requests=100, failures=0, timed=100, p95_us=501.0), 1.0)
    assert slow is not None
    assert (slow.state, slow.reason, slow.active) == ("rolled_back", "latency", held(1))
    assert "501 us" in slow.detail and machine.wanted(slow, UpdateTarget(held=held(2)), POLICY) is None


@pytest.mark.parametrize(("timed", "reason"), [(100, "latency"), (3, "")])
def test_a_release_that_is_slower_than_the_one_before_rolls_back_where_that_was_measured(timed, reason) -> None:
    begun = machine.wanted(ModelState(state="committed", active=held(1)), UpdateTarget(held=held(2)), POLICY)
    assert begun is not None
    before = ReleaseHealth(requests=timed, failures=0, timed=timed, p95_us=100.0)
    state = machine.activated(machine.trying(machine.verifying(begun)), before)
    state = replace(state, probation=replace(POLICY, max_p95_ratio=2.0))
    fine = probation.judged(state, ReleaseHealth(requests=50, failures=0, timed=50, p95_us=200.0), 1.0)
    assert fine is not None and fine.state == "committed"
    end = probation.judged(state, ReleaseHealth(requests=50, failures=0, timed=50, p95_us=201.0), 1.0)
    assert end is not None and end.reason == reason


EVENTS = st.lists(st.sampled_from(["step", "step", "break", "crash", "kill-trial"]), max_size=400)


@settings(max_examples=examples(200), deadline=None)
@given(EVENTS)
def test_any_sequence_of_crashes_ends_in_a_stable_state_within_the_cap(events) -> None:
    """A target that is wanted for ever: after MAX_TRIES steps into trying and probation nothing more begins."""
    good, wish = held(1), UpdateTarget(held=held(2))
    policy = replace(POLICY, max_starts=10_000)  # only the cap is left to end it
    state, entered = ModelState(state="committed", active=good), 0
    for event in [*events, *["step", "step", "step", "crash"] * (2 * machine.MAX_TRIES)]:
        before = state
        state = after(state, event, wish, policy)
        entered += state.state != before.state and state.state in ("trying", "probation")
    assert entered <= machine.MAX_TRIES
    assert (state.state, state.active, state.target) == ("rolled_back", good, None)
    assert state.reason in ("too-many-tries", "crash-loop", "selftest-failed")
    assert machine.wanted(state, wish, policy) is None and machine.resumed(state) == state


def after(state: ModelState, event: str, wish: UpdateTarget, policy: Probation) -> ModelState:
    """The state after one event; an agent that has nothing under way looks, and is offered `wish`."""
    if event == "crash":
        return machine.resumed(decode_json(encode_json(state), ModelState, limit=1 << 20))
    if state.state in ("idle", "committed", "rolled_back"):
        return machine.wanted(state, wish, policy) or state
    if state.state == "probation":  # nobody asks it anything
        return probation.judged(state, ReleaseHealth(requests=0, failures=0), 0.0) or state
    if event == "break":
        return machine.interrupted(state, "hash-mismatch", "the disk lies")
    if event == "kill-trial" and state.state == "trying" and not state.starts:
        return machine.killed(state, "code -9")[0]
    steps = {"fetching": machine.verifying, "verifying": machine.trying}
    step = steps.get(state.state)
    return step(state) if step is not None else machine.activated(state)


def test_a_commit_forgets_what_the_way_there_cost() -> None:
    state = replace(on_probation(2, ModelState(state="committed", active=held(1))), spent=27)
    done = probation.judged(state, ReleaseHealth(requests=50, failures=0), 1.0)
    assert done is not None and (done.state, done.spent, done.last) == ("committed", 0, None)


def test_a_release_that_rolled_back_is_remembered_with_its_reason() -> None:
    state = on_probation(2, ModelState(state="committed", active=held(1)))
    state = probation.judged(state, ReleaseHealth(requests=1, failures=1), 1.0)
    later = replace(state, state="committed", active=held(3), reason="", detail="", hint="")  # release 3 came since
    again = machine.wanted(later, UpdateTarget(held=held(2)), POLICY)
    assert again == replace(later, reason="failures", detail=again.detail, hint=again.hint)
    assert again.detail.startswith("release 2 was rolled back here before: 1 of 1 requests failed")
    assert "publish it as a new release" in again.hint
    assert machine.wanted(again, UpdateTarget(held=held(2)), POLICY) is None  # said once is enough


def test_a_rollback_that_an_earlier_agent_remembered_without_a_reason_still_counts() -> None:
    old = b'{"state":"committed","active":{"release":1,"variant":"v","manifest":"m"},"rejected":[[2,"v","r2",1]]}'
    state = decode_json(old, ModelState, limit=1 << 20)
    again = machine.wanted(state, UpdateTarget(held=held(2), rollout=rollout(2, 1)), POLICY)
    assert again is not None and again.state == "committed" and again.reason == "rolled-back"
    assert "fleet rollout retry r2" in again.hint


def test_neither_downtime_nor_a_clock_that_was_set_proves_a_release() -> None:
    state = machine.resumed(on_probation(2, ModelState(state="committed", active=held(1))))
    assert probation.judged(state, ReleaseHealth(requests=0, failures=0), 0.0) is None
    done = probation.judged(state, ReleaseHealth(requests=0, failures=0), POLICY.seconds)
    assert done is not None and done.state == "committed"


def test_what_is_withdrawn_for_a_passing_reason_is_tried_again_but_not_for_ever() -> None:
    state, target, tries = ModelState(state="committed", active=held(1)), UpdateTarget(held=held(2)), 0
    while (begun := machine.wanted(state, target, POLICY)) is not None and begun.state == "fetching":
        state, tries = machine.trying(machine.verifying(begun)), tries + 1
        if state.state == "trying":
            state = machine.withdrawn(machine.activated(state), "disk-error", "EIO")
            assert (state.active, state.previous) == (held(1), None)
    assert tries == machine.MAX_TRIES // 2 + 1 and state.reason == "too-many-tries"


def test_a_step_out_of_order_is_a_bug() -> None:
    with pytest.raises(machine.TransitionError):
        machine.trying(ModelState())


def on_probation(number: int, state: ModelState) -> ModelState:
    begun = machine.wanted(state, UpdateTarget(held=held(number)), POLICY)
    assert begun is not None
    return machine.activated(machine.trying(machine.verifying(begun)))


def judged(policy: Probation = POLICY, served_s: float = 1e9, previous: int | None = 1, **health: object) -> ModelState:
    """The judgement of release 2 on probation."""
    before = ModelState(state="committed", active=held(previous)) if previous else ModelState()
    state = replace(on_probation(2, before), probation=policy)
    return probation.judged(state, ReleaseHealth(**{"requests": 0, "failures": 0, **health}), served_s) or state


def test_what_only_the_new_release_refuses_is_a_failed_request() -> None:
    state = judged(newly_refused=1, refusal="input 'x' is missing", served_s=0.1)
    assert (state.state, state.reason, state.active) == ("rolled_back", "refusals", held(1))
    assert state.detail == (
        "1 that the release before took were refused (input 'x' is missing), at most 0 are allowed to fail"
    )


def test_requests_without_a_single_good_answer_roll_back_however_many_may_fail() -> None:
    tolerant = replace(POLICY, max_failures=100)
    for health in (
        {"requests": 3, "failures": 3},
        {"newly_refused": 3},
        {"requests": 1, "failures": 1, "newly_refused": 1},
    ):
        assert judged(tolerant, served_s=1.0, **health).state == "probation"
        assert judged(tolerant, **health).reason == "no-good-answer"
    assert judged(tolerant, requests=4, failures=3).state == "committed"


@pytest.mark.parametrize("previous", [None, 1])
def test_without_a_request_a_release_is_committed_as_untried(previous: int | None) -> None:
    state = judged(previous=previous)
    assert (state.state, state.untried) == ("committed", True)
    assert not judged(requests=1, previous=previous).untried


def test_the_first_requests_of_an_untried_release_are_judged_as_in_probation() -> None:
    untried = judged()
    assert probation.judged(untried, ReleaseHealth(requests=0, failures=0), 1e9) is None
    good = probation.judged(untried, ReleaseHealth(requests=1, failures=0), 0.0)
    assert good is not None and (good.state, good.untried, good.active) == ("committed", False, held(2))
    for health in (
        ReleaseHealth(requests=1, failures=1),
        ReleaseHealth(requests=9, failures=1),
        ReleaseHealth(requests=0, failures=0, newly_refused=1),
    ):
        bad = probation.judged(untried, health, 0.0)
        assert bad is not None and (bad.state, bad.active, bad.untried) == ("rolled_back", held(1), False)
        assert bad.rejection(UpdateTarget(held=held(2))) is not None


def test_an_untried_release_with_nothing_before_it_stays() -> None:
    untried = judged(previous=None)
    assert probation.judged(untried, ReleaseHealth(requests=1, failures=1), 0.0) is None


def test_an_untried_release_that_fails_names_the_rollout_that_it_came_by() -> None:
    wish = UpdateTarget(held=held(2), rollout=rollout(2, 4))
    begun = machine.wanted(ModelState(state="committed", active=held(1)), wish, POLICY)
    assert begun is not None
    state = probation.judged(
        machine.activated(machine.trying(machine.verifying(begun))), ReleaseHealth(requests=0, failures=0), 1e9
    )
    assert state is not None and state.untried
    bad = probation.judged(state, ReleaseHealth(requests=1, failures=1), 0.0)
    assert bad is not None and bad.about == wish.rollout and bad.rejection(wish) is not None
