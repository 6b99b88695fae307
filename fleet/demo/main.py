"""The demo from top to bottom: seven acts, one table, one report. Loud when a promise does not hold."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from fleet.demo import report as reporting
from fleet.demo.acts import drift, kill, opening, rollouts, train, variants
from fleet.demo.driver import DemoTraffic, exam
from fleet.demo.processes import DemoError
from fleet.demo.promises import broken
from fleet.demo.story import Story
from fleet.demo.workshop import DEVICES, MODEL, Workshop, agent_ports
from fleet.errors import FleetError

RATE_HZ = 25.0  # requests per second and device
SWAP = "3,8"  # the bad release's two classes


def run_demo(*, seed: int, keep: bool, directory: Path, report: Path) -> int:
    """Run every act; returns the exit code (0: every promise held)."""
    console = Console(highlight=False)
    try:
        shop = Workshop(directory, seed, console)
    except DemoError as error:
        console.print(f"[red]error:[/red] {error}")
        return 1
    story = Story(shop, ThreadPoolExecutor(1, thread_name_prefix="background"))
    try:
        play(story)
        sentences = finish(story, report)
        if keep:
            stay(shop)
    except (DemoError, FleetError) as error:
        console.print(f"[red]the demo failed:[/red] {error}\nlogs: {shop.logs}")
        return 1
    finally:
        if story.traffic is not None:
            story.traffic.stop()
        story.background.shutdown(cancel_futures=True)
        shop.stop_all()
    return 1 if sentences else 0


def play(story: Story) -> None:
    """The acts, in order."""
    good, bad = _first_release(story)
    _serve(story)
    _rollouts(story, good, bad)
    shop = story.shop
    shop.act("8  The camera slips: alarm, labels, retrain")
    release = _drift(story)

    shop.act("9  The hub goes away")
    kill.hub_away(story)
    drift.count_later_alarms(story, release)


def _first_release(story: Story) -> tuple[Future[Path], Future[Path]]:
    """Acts 1 to 3; what the later acts roll out, a good and a bad release, is made while the first one serves."""
    shop = story.shop
    shop.act("1  Train a teacher and its student")
    train.make_data(story)
    first = train.train(shop, "first", "--seed", shop.seed)

    shop.act("2  Compile, measure, gate")
    release = train.compile_release(shop, first, "first")
    shop.say(train.describe(release))
    story.input_name = train.manifest(release)["inputs"][0]["name"]
    story.raw_runtime_p50 = train.manifest(release)["variants"][0]["verdict"]["latency_us_p50"]
    good = story.background.submit(_make, story, "good", "--seed", shop.seed + 1000)
    bad = story.background.submit(_make, story, "bad", "--seed", shop.seed + 2000, "--swap-labels", SWAP)

    shop.act("3  A hub, signed release 1, channel stable")
    opening.open_hub(shop)
    opening.create_model(story)
    opening.put_on_channel(shop, opening.publish(shop, release, "the first"))
    return good, bad


def _serve(story: Story) -> None:
    """Acts 4 and 5."""
    shop = story.shop
    shop.act("4  Three devices pull, verify, try and serve it")
    opening.enrol_devices(shop)
    story.traffic = DemoTraffic(
        agent_ports(shop), MODEL, story.input_name, story.data["traffic"], rate_hz=RATE_HZ, seed=shop.seed
    )
    shop.wait("release 1 answers on every device", lambda: all(shop.active(d) == 1 for d in DEVICES), timeout_s=60)
    story.traffic.start()  # a release is committed after good answers to real requests
    seconds = shop.wait_installed(1)
    shop.say(f"every device has committed release 1, {seconds:.1f} s after its first answer")

    shop.act("5  Traffic: confident answers stay local, the rest goes to the cloud")
    _examine(story, "before_shift", shifted=False)
    variants.compare(story)


def _rollouts(story: Story, good: Future[Path], bad: Future[Path]) -> None:
    """Acts 6 and 7."""
    shop = story.shop
    shop.act("6  A good release is rolled out and promoted, though two devices are killed on the way (9)")
    _good_release(story, good.result())

    shop.act("7  A bad release is halted by its guard")
    number = opening.publish(shop, bad.result(), "looks fine")
    rollouts.follow(story, rollouts.create(shop, number), number, expected="halted")
    rollouts.wait_back_on(shop, 2)


def _good_release(story: Story, release: Path) -> None:
    """A rollout in two stages, with bandwidth so low that a fetch takes seconds, and two devices killed on the way."""
    shop, failed = story.shop, story.running_traffic.failed
    number = opening.publish(shop, release, "trained longer")
    kill.slow_down(shop, _edge_size(release))
    rollout = rollouts.create(shop, number)
    killed = kill.kill_one(story, "fetching")
    kill.kill_one(story, "trying", spared=(killed,))
    rollouts.follow(story, rollout, number, expected="finished")
    shop.wait_installed(number)
    kill.speed_up(shop)
    story.report["kill"] |= {"recovered": True, "requests_failed": story.running_traffic.failed - failed}


def _drift(story: Story) -> int:
    """From the slipped camera to a retrained release on every device; returns its number."""
    shop = story.shop
    drift.slip(story)
    drift.collect_samples(shop)
    _examine(story, "during_shift", shifted=True)
    drift.label(story)
    drift.rest(shop)
    shop.wait_installed(release := drift.retrain(story))
    _examine(story, "after_retrain", shifted=True)
    return release


def finish(story: Story, path: Path) -> list[str]:
    """Fill in the totals, write the report, show the table; returns the broken promises."""
    shop, traffic = story.shop, story.running_traffic
    tallies = [application.tally for application in traffic.applications]
    totals = reporting.byte_totals([shop.client.device(device).info for device in shop.agent_ports])
    story.report |= {
        "requests": reporting.requests_section(tallies),
        "latency_us": reporting.latency_section(tallies, story.raw_runtime_p50),
        "bytes": totals,
        "seconds": round(shop.seconds, 1),
        "seed": shop.seed,
    }
    sentences = broken(story.report)
    reporting.write(story.report, path)
    reporting.show(story.report, sentences, shop.console)
    return sentences


def stay(shop: Workshop) -> None:
    """Keep hub, agents and traffic until Ctrl-C."""
    shop.console.print(
        f"\nstill running: dashboard at {shop.url}/\noperator token: {shop.admin_token()}\nCtrl-C ends it"
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(1.0):
            shop.check()
    except KeyboardInterrupt:
        shop.console.print("ending")


def _make(story: Story, name: str, *options: object) -> Path:
    """Train and compile one more release, with the first one's drift encoder."""
    first = story.shop.directory / "releases" / "first"
    trained = train.train(story.shop, name, *options)
    return train.compile_release(story.shop, trained, name, "--encoder-from", first)


def _examine(story: Story, when: str, *, shifted: bool) -> None:
    """Measure accuracy on the exam through the agents' API."""
    digits = (story.shifted if shifted else story.data)["exam"]
    result = exam(agent_ports(story.shop), MODEL, story.input_name, digits)
    if result.pop("failed"):
        raise DemoError(f"exam requests failed ({when})")
    story.report["accuracy_over_time"][when] = {name: round(value, 4) for name, value in result.items()}
    story.shop.say(f"accuracy {when.replace('_', ' ')}: edge {result['edge_only']:.3f}, served {result['served']:.3f}")


def _edge_size(release: Path) -> int:
    """Bytes of the first edge variant, which is what the devices fetch."""
    sizes = [v["verdict"]["size_bytes"] for v in train.manifest(release)["variants"] if v["placement"] == "edge"]
    return int(sizes[0])
