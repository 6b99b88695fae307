"""A renewal that ends at any of its file calls, by a kill or a power cut: the device is let in, and renews."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from edge_agent.errors import UnreachableError
from edge_agent.identity import pairs
from edge_agent.identity.http import HubHttp
from edge_agent.identity.keys import load_key, load_or_make_key
from edge_agent.identity.renew import renew_pair
from tests.support.device import enrolled_with
from tests.support.faults import results
from tests.support.faults.calls import Calls, DeadError
from tests.support.faults.judge import Verdict
from tests.support.hub import HubFixture, make_hub

DAY = 86_400
MODES = ("nothing", "names", *["anything"] * (30 if results.FULL else 2))  # of what was not synced


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    return make_hub(tmp_path_factory.mktemp("renewals"))


@pytest.fixture(scope="module")
def device(hub: HubFixture, tmp_path_factory: pytest.TempPathFactory):
    """An enrolled device; every case goes on with what the one before left."""
    folder = tmp_path_factory.mktemp("device")
    with enrolled_with(hub, folder / "agent") as directory:
        yield directory


def log_in_and_renew(device: Path) -> None:
    """Do as the child of a look does."""
    hub = HubHttp(device)
    hub.log_in()
    renew_pair(hub, device / "identity")


def fresh(device: Path) -> None:
    """The ordinary renewal begins from the pair in use alone."""
    assert not {pairs.NEXT_KEY, pairs.NEXT_CERTIFICATE} & {path.name for path in (device / "identity").iterdir()}


def refused(device: Path) -> None:
    """A next pair is here that the hub does not take: the renewal has to forget it first."""

    class Away(HubHttp):
        def log_in(self, timeout: float = 30.0) -> None:
            raise UnreachableError("cut off")

    with pytest.raises(UnreachableError):
        renew_pair(Away(device), device / "identity")
    other = device / "other.key"
    other.unlink(missing_ok=True)
    load_or_make_key(other)
    other.replace(device / "identity" / pairs.NEXT_KEY)


def is_let_in(device: Path) -> bytes:
    """A process that starts now is let in, and its key is its certificate's; gives the key."""
    assert HubHttp(device).request("GET", "/device/me").status == 200
    identity = device / "identity"
    pairs.finish_replacement(identity)  # as who connects to the broker does
    certificate = x509.load_pem_x509_certificate((identity / pairs.CERTIFICATE).read_bytes())
    assert certificate.public_key() == load_key(identity / pairs.KEY).public_key()
    return (identity / pairs.KEY).read_bytes()


def calls_of(device: Path, before) -> int:
    """Count the file calls of an undisturbed renewal; none is missed."""
    before(device)
    with Calls(device / "identity") as calls:
        log_in_and_renew(device)
    assert calls.differences() == [] and calls.count >= 12
    return calls.count


def ended(device: Path, hub: HubFixture, before, last: int, power: str, seed: int) -> Verdict:
    """A renewal that ends at its `last` call, by a kill or with what a power cut leaves, and the one after it."""
    name, faults = f"after call {last}, {power or 'killed'}, seed {seed}", []
    try:
        hub.clock.advance(46 * DAY)  # past half of a certificate's life
        old = is_let_in(device)
        before(device)
        with Calls(device / "identity", last) as calls, pytest.raises(DeadError):
            log_in_and_renew(device)
        assert calls.differences() == []
        if power:
            calls.lose_power(power, seed)
        is_let_in(device)
        log_in_and_renew(device)
        assert is_let_in(device) != old
        fresh(device)
    except Exception as error:
        faults.append(f"stuck: {error}")
    return Verdict(name=name, faults=tuple(faults))


@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power off"])
@pytest.mark.parametrize("before", [fresh, refused])
def test_ended_at_any_call_the_device_is_let_in_and_the_next_renewal_completes(
    device: Path, hub: HubFixture, before, power
) -> None:
    modes = list(enumerate(MODES if power else [""]))
    verdicts = [
        ended(device, hub, before, last, mode, seed) for last in range(calls_of(device, before)) for seed, mode in modes
    ]
    part = f"{before.__name__}, {'power off' if power else 'killed'}"
    faults = results.keep("renewal", part, verdicts, seed=[seed for seed, _ in modes])
    assert not faults, "\n".join(faults)
