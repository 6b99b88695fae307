"""Act 8: the camera slips, an alarm rises, people label, a retrain job makes the next release."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet.api.samples import SampleDetail
from fleet.demo.acts import rollouts
from fleet.demo.acts.opening import alarms
from fleet.demo.driver import image_key
from fleet.demo.processes import DemoError, options
from fleet.demo.promises import MIN_LABELS
from fleet.demo.story import Story
from fleet.demo.workshop import CHANNEL, DEVICES, MODEL, Workshop

BASELINE_TIMEOUT_S = 180.0
ALARM_TIMEOUT_S = 60.0
SAMPLES_TIMEOUT_S = 60.0


def slip(story: Story) -> None:
    """Turn what the cameras see, and wait for the alarm."""
    shop, traffic = story.shop, story.running_traffic
    # A shift that comes before the promoted release has its baselines would become a part of them.
    shop.wait("a baseline of every device", lambda: _steady(shop) >= len(DEVICES), timeout_s=BASELINE_TIMEOUT_S)
    story.report["drift"]["alarms_before_shift"] = alarms(shop)
    story.shifted_from = traffic.total
    traffic.use(story.shifted["traffic"])
    shop.wait("a drift alarm", lambda: alarms(shop) > 0, timeout_s=ALARM_TIMEOUT_S)
    after = traffic.total - story.shifted_from
    story.report["drift"]["alarm_after_requests"] = after
    shop.say(f"drift alarm after {after} shifted requests")


def _steady(shop: Workshop) -> int:
    """Count the devices that have a baseline on the release that is the default."""
    found = shop.client.drift(model=MODEL)
    return sum(monitor.streams.get("steady", 0) for monitor in found if monitor.default)


def collect_samples(shop: Workshop) -> None:
    """Let the channel record samples generously, for a while: at random, so that labels weigh every input alike."""
    shop.fleet("channel", "set", CHANNEL, "--model", MODEL, "--sampling", "--random-share", 80, "--uncertain-share", 0)


def rest(shop: Workshop) -> None:
    """Enough is labelled: the devices' uplink is theirs again."""
    shop.fleet("channel", "set", CHANNEL, "--model", MODEL, "--no-sampling")


def label(story: Story) -> None:
    """Play the annotator: recognise uploaded images and write down their true class."""
    shop = story.shop
    truth = {image_key(image.tobytes()): int(y) for image, y in _images(story)}
    known: dict[str, int] = {}
    seen: set[str] = set()

    def enough() -> bool:
        for row in shop.client.samples(model=MODEL, labelled=False, limit=1000):
            if row.id not in seen:
                seen.add(row.id)
                label = truth.get(image_key(sample_bytes(shop.client.sample(row.id))))
                if label is not None:
                    known[row.id] = label
        return len(known) >= MIN_LABELS

    shop.wait(f"{MIN_LABELS} samples that the annotator knows", enough, timeout_s=SAMPLES_TIMEOUT_S, every_s=1.0)
    file = shop.directory / "labels.csv"
    file.write_text("".join(f"{sample},{digit}\n" for sample, digit in known.items()), encoding="utf-8")
    shop.fleet("sample", "label", "--file", file, "--by", "annotator")
    story.report["drift"]["labels"] = len(known)
    shop.say(f"{len(known)} uploaded samples labelled")


def _images(story: Story) -> list[tuple[Any, Any]]:
    shifted = story.shifted["traffic"]
    return list(zip(shifted.x, shifted.y, strict=True))


def sample_bytes(sample: SampleDetail) -> bytes:
    """The float32 bytes of a sample's first input."""
    return np.asarray(sample.inputs[0].data, np.float32).tobytes()


def retrain(story: Story) -> int:
    """A retrain job from labels to rollout; returns the new release's number."""
    shop = story.shop
    snapshot = shop.fleet("snapshot", "create", "--model", MODEL)
    shop.say(f"snapshot {snapshot['id'][:12]}: {snapshot['samples']} samples, {snapshot['labelled']} labelled")
    what = options(snapshot=snapshot["id"], channel=CHANNEL, stages=rollouts.STAGES, guard=rollouts.GUARD)
    job = shop.fleet("retrain", MODEL, *what, "--wait", *options(timeout=240), timeout_s=260)
    result = job["result"]
    shop.say(f"retrain job {job['state']}: release {result['release']}")
    rollout = result.get("rollout") or _newest_rollout(shop, int(result["release"]))
    rollouts.follow(story, rollout, int(result["release"]), expected="finished")
    return int(result["release"])


def _newest_rollout(shop: Workshop, release: int) -> str:
    for rollout in shop.client.rollouts():
        if rollout.release == release:
            return rollout.id
    raise DemoError(f"the retrain job started no rollout of release {release}")


def count_later_alarms(story: Story, release: int) -> None:
    """Alarms about the retrained release: of the one before it, whose answers did become worse, more may still come."""
    story.report["drift"]["alarms_after_retrain"] = alarms(story.shop, of=release)
