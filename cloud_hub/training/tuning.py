"""The tune job: a search over a recipe's hyper-parameters, each trial a piece of work of its own (`trial`).

All trials have the same snapshot, the same dealing of it and the same seed. What is done is kept in the job's result,
so that a worker that takes over goes on from there; the best trial may become a retrain job. With `halving` trials
begin with few epochs, and only the best go on with more (`halving`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from sqlmodel import select

from cloud_hub.errors import HubError, InvalidError
from cloud_hub.execution.log import append_log
from cloud_hub.execution.port import LOG, Executor, NoClusterError, Work
from cloud_hub.jobs.folders import work_folder
from cloud_hub.jobs.logs import keep_log
from cloud_hub.jobs.retraining import check_retrain
from cloud_hub.jobs.running import Running
from cloud_hub.samples import snapshots
from cloud_hub.store.tables import Job
from cloud_hub.training import halving, handing
from cloud_hub.training.halving import Trial
from cloud_hub.training.proposing import Hyper, Proposer
from cloud_hub.training.retrain import current_release
from cloud_hub.training.trial import ENTRY
from cloud_hub.trust.rows import get_model, interface_release
from fleet.api.hyper import HyperOptions
from fleet.api.jobs import RetrainOptions, TuneOptions

LISTEN_S = 0.5
FAILURES = 3  # trials that fail before one succeeds: then the recipe is at fault, not the numbers
Prepare = Callable[[Path, Trial], Work]


def tune(running: Running, executor: Executor) -> dict[str, object]:
    """Run the job; returns `trials`, the `best` of them, and `retrain`, the job that trains with its numbers.

    Raises HubError when no trial comes to its end.
    """
    hub, model = running.hub, running.job.model
    options = TuneOptions.model_validate(running.job.payload)
    if "snapshot" not in running.saved:
        running.step("freezing a snapshot", 0.0)
        snapshot = options.snapshot or snapshots.create(hub, model, actor=f"job:{running.job.id}").id
        until = None if options.for_s is None else hub.clock() + options.for_s
        running.save(snapshot=snapshot, until=until, trials=[])
    search = Search(running, options, executor, _prepared(running, options))
    try:
        search.run()
    finally:
        keep_log(hub, running.job.id, search.folder)
    best = search.best()
    running.save(best=best)
    if options.retrain is not None and "retrain" not in running.saved:
        running.save(retrain=_retrain(running, options.retrain, best["hyper"]))
    shutil.rmtree(search.folder, ignore_errors=True)
    return running.saved


class Search:
    """The trials of a tune job: as many at a time as asked, each in a folder of its own.

    `prepare` writes a trial's folder and says its work.
    """

    def __init__(self, running: Running, options: TuneOptions, executor: Executor, prepare: Prepare) -> None:
        self._running, self._options, self._executor, self._prepare = running, options, executor, prepare
        self.folder = work_folder(running.hub, running.job.id)
        self._trials: list[dict[str, Any]] = list(running.saved["trials"])
        before = [(one["trial"], one["hyper"], one.get("loss")) for one in self._trials]
        self._first: list[Hyper] = []  # of a halving: what its first rung tries
        self._proposer = Proposer(options.space, seed=options.seed, before=[] if options.halving else before)
        if options.halving:
            asked = [self._proposer.ask()[1] for _ in range(options.trials)]
            self._first = [hyper for place, hyper in enumerate(asked) if hyper not in asked[:place]]
        self._total = sum(size for size, _ in halving.rungs(len(self._first))) or options.trials
        self._held: list[Trial] = []  # proposed, and not to be begun yet
        self._room = options.parallel
        self._stop = threading.Event()

    def run(self) -> None:
        """Run trials until there are as many as asked, or the time is over; those that run then come to their end."""
        running, options = self._running, self._options
        with ThreadPoolExecutor(options.parallel) as pool:
            pending: dict[Future[dict[str, Any]], Trial] = {}
            try:
                while pending or self._more(0):
                    while (trial := self._next(list(pending.values()))) is not None:
                        pending[pool.submit(self._trial, trial)] = trial
                    running.step(self._words(len(pending)), min(0.99, len(self._trials) / self._total))
                    running.check()
                    done, _ = wait(pending, timeout=LISTEN_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        trial = pending.pop(future)
                        crowded = bool(pending) or self._room > 1
                        if crowded and isinstance(future.exception(), NoClusterError):
                            self._wait_for_room(trial, len(pending))
                        else:
                            self._take(trial, future)
            finally:
                self._stop.set()

    def _next(self, pending: list[Trial]) -> Trial | None:
        """The trial to begin now, if there is one and room for it. One with the same numbers is awaited instead."""
        while len(pending) < self._room and self._more(len(pending)):
            trial = self._held.pop(0) if self._held else self._proposed(pending)
            if any(one.hyper == trial.hyper for one in pending):
                self._held.insert(0, trial)
                return None
            if not self._is_known(trial):
                return trial
        return None

    def _proposed(self, pending: list[Trial]) -> Trial:
        if not self._first:
            return Trial(*self._proposer.ask())
        return next(trial for trial in halving.due(self._first, self._trials) if trial not in pending)

    def _wait_for_room(self, trial: Trial, others: int) -> None:
        """A cluster that carries the others has no room for this one: it waits until one of them has ended.

        Where none runs any more, it is tried alone before the search is given up.
        """
        self._held.append(trial)
        self._room = max(1, min(self._room, others))

    def best(self) -> dict[str, Any]:
        """The trial with the smallest loss, of those with the most epochs; raises HubError without any."""
        found = [one for one in self._trials if "loss" in one]
        longest = max((one.get("share", 1.0) for one in found), default=1.0)
        found = [one for one in found if one.get("share", 1.0) == longest]
        if not found:
            raise HubError("no trial came to its end in the time of the search", subject="tune", hint="give it more")
        best: dict[str, Any] = min(found, key=lambda one: one["loss"])
        return best

    def _more(self, pending: int) -> bool:
        until = self._running.saved["until"]
        in_time = until is None or self._running.hub.clock() < until
        if self._first:
            return in_time and len(halving.due(self._first, self._trials)) > pending
        return in_time and len(self._trials) + pending < self._options.trials

    def _words(self, pending: int) -> str:
        found = [one for one in self._trials if "loss" in one]
        best = f", best {self.best()['metric']} {self.best()['score']:.4g}" if found else ""
        return f"{len(self._trials)} of {self._total} trials, {pending} running{best}"

    def _trial(self, trial: Trial) -> dict[str, Any]:
        """In a thread of its own."""
        work = self._prepare(self._place(trial), trial)
        return self._executor.run(work, progress=lambda step, share: self._check(), check=self._check)

    def _place(self, trial: Trial) -> Path:
        """A trial's folder. Whoever takes over goes on in it only with the same numbers."""
        digest = hashlib.sha256(json.dumps([trial.hyper, trial.share], sort_keys=True).encode()).hexdigest()
        return self.folder / f"trial-{trial.number}-{digest[:16]}"

    def _check(self) -> None:
        if self._stop.is_set():
            raise InvalidError("the search has ended")

    def _take(self, trial: Trial, future: Future[dict[str, Any]]) -> None:
        """Keep what a trial found; one that failed is kept with its error."""
        entry: dict[str, Any] = {"trial": trial.number, "hyper": trial.hyper}
        if self._first:
            entry["share"] = trial.share
        try:
            found = future.result()
            entry |= {key: found[key] for key in ("score", "metric", "rows")}
            entry["loss"] = -found["score"] if found["higher_is_better"] else found["score"]
        except NoClusterError:
            raise
        except HubError as error:
            entry["error"] = str(error)[:300]
            if not any("loss" in one for one in self._trials) and len(self._trials) + 1 >= FAILURES:
                raise
        finally:
            self._keep_log(trial)
        if not self._first:
            self._proposer.tell(trial.number, entry.get("loss"))
        self._trials.append(entry)
        self._running.save(trials=list(self._trials))

    def _is_known(self, trial: Trial) -> bool:
        """Take over what the same numbers gave before: a trial is a matter of numbers, snapshot and seed alone."""
        if self._first:  # no two of a rung are alike
            return False
        same = next((one for one in self._trials if one["hyper"] == trial.hyper and "loss" in one), None)
        if same is not None:
            self._proposer.tell(trial.number, same["loss"])
            self._trials.append({**same, "trial": trial.number, "as": same.get("as", same["trial"])})
            self._running.save(trials=list(self._trials))
        return same is not None

    def _keep_log(self, trial: Trial) -> None:
        """Its prints join the job's; its folder goes."""
        folder = self._place(trial)
        log = folder / LOG
        said = ", ".join(f"{name}={value:g}" for name, value in trial.hyper.items())
        part = f", {trial.share:.0%} of its epochs" if trial.share < 1 else ""
        head = f"== trial {trial.number}: {said}{part}\n"
        append_log(self.folder / LOG, head.encode() + (log.read_bytes() if log.is_file() else b""))
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(running: Running, options: TuneOptions) -> Prepare:
    hub, model = running.hub, running.job.model
    with hub.reading() as session:
        recipe, fixed = get_model(session, model).recipe, interface_release(session, model)
    current = current_release(hub, model, options.retrain.channel if options.retrain is not None else "")
    snapshot = running.saved["snapshot"]

    def prepare(folder: Path, trial: Trial) -> Work:
        handing.hand_in(hub, model, folder, snapshot, fixed, current)
        arguments = {
            "recipe": recipe,
            "seed": options.seed,
            "model": model,
            "hyper": trial.hyper,
            "share": trial.share,
            "fixed": fixed.number if fixed is not None else None,
        }
        return Work(ENTRY, folder, arguments, beside={"recipes": hub.config.directory / "recipes"})

    return prepare


def _retrain(running: Running, options: RetrainOptions, hyper: Hyper) -> str:
    """Queue the retrain with the best numbers, or find the one that this job queued before its worker died; its id.

    It has the search's seed: another one would hold out other labels for the gate, on which trials were trained.
    """
    actor = f"job:{running.job.id}"
    with running.hub.reading() as session:
        made = session.exec(select(Job.id).where(Job.created_by == actor)).first()
    if made is not None:
        return made
    numbers, seed = HyperOptions.model_validate(hyper), running.job.payload["seed"]
    wanted = {"hyper": numbers, "snapshot": running.saved["snapshot"], "seed": seed}
    return check_retrain(running.hub, running.job.model, options.model_copy(update=wanted), actor=actor).id
