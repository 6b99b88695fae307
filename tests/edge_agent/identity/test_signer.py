"""Signing in this process and in one of its own: the same contract, and what the process's death does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.errors import IdentityError, SignerError
from edge_agent.identity.keys import TOKEN_PREFIX, load_or_make_key
from edge_agent.identity.pairs import KEY
from edge_agent.identity.signer import LocalSigner, SignerProcess
from edge_agent.ports import Signer
from tests.support.descriptors import many_descriptors

ROOT = Path(__file__).parents[3]
HUB = Ed25519PrivateKey.generate()
PUBLIC = HUB.public_key().public_bytes_raw()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[SignerProcess]:
    load_or_make_key(tmp_path / KEY)
    signer = SignerProcess(tmp_path)
    yield signer
    signer.close()


@pytest.fixture(params=["here", "process"])
def signer(request: pytest.FixtureRequest, tmp_path: Path) -> Signer:
    load_or_make_key(tmp_path / KEY)
    return LocalSigner(tmp_path) if request.param == "here" else request.getfixturevalue("process")


def running(process: SignerProcess) -> int:
    """The process's id, after it has answered."""
    assert process.verify(PUBLIC, HUB.sign(b"x"), b"x")
    assert process._process is not None
    return process._process.pid


def test_it_signs_a_nonce_with_the_devices_key(signer: Signer, tmp_path: Path) -> None:
    signature, public = signer.sign(KEY, "nonce"), load_or_make_key(tmp_path / KEY).public_key()
    public.verify(signature, TOKEN_PREFIX + b"nonce", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, TOKEN_PREFIX + b"other", ec.ECDSA(hashes.SHA256()))


def test_it_tells_a_good_signature_from_a_wrong_one(signer: Signer) -> None:
    payload = bytes(range(256)) * 200  # more than a pipe takes at once, as text
    good = HUB.sign(payload)
    assert signer.verify(PUBLIC, good, payload)
    assert not signer.verify(PUBLIC, good, payload + b"\n")
    assert not signer.verify(PUBLIC, good[:-1], payload)
    assert not signer.verify(PUBLIC[:-1], good, payload)


def test_a_missing_or_damaged_key_is_named(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "next.key").write_text("no key")
    for name in ("next.key", "absent.key"):
        with pytest.raises(IdentityError, match=f"{name}: no device key") as caught:
            signer.sign(name, "nonce")
        assert caught.value.hint == "enrol again"
    assert signer.sign(KEY, "nonce")


def test_the_process_answers_many_questions_and_ends_when_nobody_asks(tmp_path: Path) -> None:
    load_or_make_key(tmp_path / KEY)
    signer = SignerProcess(tmp_path, linger_s=0.2)
    first = running(signer)
    assert signer.sign(KEY, "nonce") and signer._process is not None and signer._process.pid == first
    assert signer._process.wait(30) == 0
    assert running(signer) != first
    signer.close()


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from edge_agent.identity.signer import SignerProcess\n"
        "signer = SignerProcess(pathlib.Path(sys.argv[1])); signer.verify(b'', b'', b'')\n"
        "print(signer._process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert select.select([child], [], [], 30)[0]  # readable: it has ended
    os.close(child)


def test_a_process_that_died_is_replaced(process: SignerProcess) -> None:
    first = running(process)
    os.kill(first, signal.SIGKILL)
    assert running(process) != first


def test_an_agent_with_many_connections_has_it_sign(process: SignerProcess) -> None:
    with many_descriptors():
        running(process)


def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    load_or_make_key(tmp_path / KEY)
    signer = SignerProcess(tmp_path)
    stuck = running(signer)
    os.kill(stuck, signal.SIGSTOP)
    signer._patience_s = 0.1
    with pytest.raises(SignerError, match=r"within 0\.1 s"):
        signer.sign(KEY, "nonce")
    signer._patience_s = 30.0
    assert running(signer) != stuck
    signer.close()


def test_a_process_that_cannot_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(SignerError, match="ended twice"):
        SignerProcess(tmp_path).sign(KEY, "nonce")
    monkeypatch.setattr("sys.executable", "/does/not/exist")
    with pytest.raises(SignerError, match="cannot be started"):
        SignerProcess(tmp_path).sign(KEY, "nonce")
