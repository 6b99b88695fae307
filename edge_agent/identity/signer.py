"""Signatures are made and checked in a process of its own: `python -m edge_agent.identity.signer FOLDER`.

The library for it (some 10 MiB of memory) thereby stays out of the process that serves for months. The signer
starts when it is needed, and ends LINGER_S after the last question or with its parent.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from edge_agent.errors import AgentError, IdentityError, SignerError
from edge_agent.identity.keys import load_key, sign_nonce, signed_by

LINGER_S = 30.0  # a batch of receipts comes within it
PATIENCE_S = 30.0  # for one answer, the start of Python on a slow device included


class Sign(Struct, frozen=True, tag="sign"):
    """Sign `nonce` for a token, with the key in the file `key`."""

    key: str
    nonce: str


class Verify(Struct, frozen=True, tag="verify"):
    """Is `signature` one of `public` (raw Ed25519) over `payload`?"""

    public: bytes
    signature: bytes
    payload: bytes


class SignerReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`error` with its `hint`, or what was asked for."""

    signature: bytes = b""
    holds: bool = False
    error: str = ""
    hint: str = ""


class LocalSigner:
    """Implements `ports.Signer` in this process, with the keys in `identity`."""

    def __init__(self, identity: Path) -> None:
        self._identity = identity

    def sign(self, key: str, nonce: str) -> bytes:
        """See the port."""
        return sign_nonce(load_key(self._identity / key), nonce)

    def verify(self, public: bytes, signature: bytes, payload: bytes) -> bool:
        """See the port."""
        return signed_by(public, signature, payload)


class SignerProcess:
    """Implements `ports.Signer` by asking a process, one question at a time."""

    def __init__(self, identity: Path, *, linger_s: float = LINGER_S, patience_s: float = PATIENCE_S) -> None:
        self._identity, self._linger_s, self._patience_s = identity, linger_s, patience_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def sign(self, key: str, nonce: str) -> bytes:
        """See the port."""
        return self._ask(Sign(key, nonce)).signature

    def verify(self, public: bytes, signature: bytes, payload: bytes) -> bool:
        """See the port."""
        return self._ask(Verify(public, signature, payload)).holds

    def close(self) -> None:
        """End the process; the next question starts another one."""
        with self._lock:
            self._end()

    def _ask(self, question: Sign | Verify) -> SignerReply:
        line = msgspec.json.encode(question) + b"\n"
        with self._lock:
            said = self._exchange(line) or self._exchange(line)  # the first one may have ended as it was asked
        if not said:
            raise SignerError(
                "the process that signs and verifies ended twice without an answer",
                hint="its own words are in the agent's log; is there memory left?",
            )
        answer = msgspec.json.decode(said, type=SignerReply)
        if answer.error:
            raise IdentityError(answer.error, subject=str(self._identity), hint=answer.hint)
        return answer

    def _exchange(self, line: bytes) -> bytes:
        """The answer to `line`, or nothing when the process ended."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
        except OSError:
            self._end()
            return b""
        if not _readable(process.stdout, self._patience_s):
            self._end()
            raise SignerError(f"no signature and no verdict within {self._patience_s:g} s", hint="is the device busy?")
        said = process.stdout.readline()
        if not said:
            self._end()
        return said

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-m", __name__, str(self._identity), str(self._linger_s)]
            try:
                self._process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            except OSError as error:
                raise SignerError(f"the process that signs cannot be started: {error}") from error
            threading.Thread(target=self._process.wait, daemon=True).start()  # it ends by itself and leaves no zombie
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()
        process.kill()
        process.wait()


def answer(signer: LocalSigner, line: bytes) -> SignerReply:
    """Carry out a line that the process was sent, and make its reply."""
    question = msgspec.json.decode(line, type=Sign | Verify)
    try:
        if isinstance(question, Sign):
            return SignerReply(signature=signer.sign(question.key, question.nonce))
        return SignerReply(holds=signer.verify(question.public, question.signature, question.payload))
    except AgentError as error:
        return SignerReply(error=str(error), hint=error.hint)


def _readable(file: IO[bytes], patience_s: float) -> bool:
    """Tell whether there is something to read, or an end, within so many seconds. (select() takes no descriptor
    above 1023, and an agent with many applications has those.)"""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(patience_s * 1000))


def serve(signer: LocalSigner, asked: IO[bytes], said: IO[bytes], linger_s: float) -> None:
    """Answer line after line until nobody has asked for `linger_s` seconds, or nobody can any more.

    Args:
        signer: has the key.
        asked: one request a line.
        said: one answer a line.
        linger_s: seconds without a request after which it ends.
    """
    while _readable(asked, linger_s):
        if not (line := asked.readline()):
            return
        said.write(msgspec.json.encode(answer(signer, line)) + b"\n")
        said.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is seen at stdin
    serve(LocalSigner(Path(sys.argv[1])), sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[2]))
