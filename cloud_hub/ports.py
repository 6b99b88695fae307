"""The hub core's needs from the outside world, as protocols.

Each has a real adapter and a fake that passes the same contract test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Struct
from sqlmodel import Session

from cloud_hub.acts import Entry, Position
from cloud_hub.clock import Clock as Clock
from cloud_hub.store.tables import ChannelRow, Model, Release
from fleet.protocol.channel import Channel
from fleet.protocol.messages import Held, Signed

Also = Callable[[Session], None]
State = Literal["ok", "starting", "failed", "unknown"]
HUB_IDENTITY = "_hub"  # the hub's own MQTT name; no device can have it, names hold no underscore


class Stored(NamedTuple):
    """An object's bytes and the tag that `put_if_match` compares."""

    data: bytes
    tag: str


class ObjectInfo(NamedTuple):
    """One object: its key, size in bytes, and time of last change (Unix seconds)."""

    key: str
    size: int
    modified_at: float


class Objects(Protocol):
    """Named, immutable-by-habit byte strings: blobs, signed files, samples, snapshots.

    Keys are slash-separated and relative. Every put is durable when it returns. All methods block;
    call them from a thread. Errors: NotFoundError, ConflictError, UnreachableError, InvalidError (a
    key with an empty, `.` or `..` part).
    """

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key`; False (and nothing is changed) when it exists already."""
        ...

    def put_file(self, key: str, path: Path) -> bool:
        """`put_new` of a file's content, streamed."""
        ...

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> str:
        """Replace `key` if it still has `tag` (None: if it does not exist); returns the new tag.

        Raises ConflictError when somebody else was faster.

        Args:
            data: the new bytes.
            tag: as an earlier put or get returned it; None where `key` must not exist.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace `key`."""
        ...

    def get(self, key: str) -> Stored:
        """All bytes of `key` with its tag."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` (fewer at the end)."""
        ...

    def stream(self, key: str, start: int = 0, length: int | None = None, chunk: int = 1 << 18) -> Iterator[bytes]:
        """The bytes of `key` piece by piece."""
        ...

    def info(self, key: str) -> ObjectInfo | None:
        """Size and age of `key`, or None when it does not exist."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether `key` exists."""
        ...

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        """Every object whose key starts with `prefix` and a slash."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens when it does not exist."""
        ...


class SigningRequest(Struct, frozen=True, kw_only=True):
    """The bytes that the holder of the release key signs: Ed25519 over `payload`, for `version` of role `models`."""

    payload: bytes
    version: int
    key_id: str


class Publisher(Protocol):
    """Signs and publishes releases and channels; each call is one locked transaction.

    Usable from any process (server, worker). Never call it while a session of your own is open: it
    opens one itself, and SQLite has a single writer. `first(session)` runs inside the transaction, under
    the publishing lock and before anything is read: what your change rests on is checked there.
    `also(session)` runs before the commit, so that your rows change together with what is published.
    """

    def reserve(self, model: str, *, actor: str) -> int:
        """Take the next release number of `model`."""
        ...

    def publish_release(
        self,
        model: str,
        manifest: bytes,
        *,
        actor: str,
        note: str = "",
        number: int | None = None,
        ends_monitoring: bool = False,
        also: Also | None = None,
    ) -> Release:
        """Check `manifest` (gate, blobs, interface) and publish it under `number` (None: a new one).

        `ends_monitoring` says that a release without a drift sketch is meant, where the model had one.
        The status is `published`, or `awaiting-signature` when the release key is not held here.

        Args:
            model: its name.
            manifest: encoded, as it will be signed.
            actor: as in the audit log.
            note: for people; not signed.
            number: one that was reserved; None for the next.
            ends_monitoring: a release without a drift sketch is meant, where the model had one.
            also: runs in the same transaction, last.
        """
        ...

    def withdraw(self, model: str, number: int, reason: str, *, actor: str) -> Release:
        """Forbid a release for ever; ConflictError while a channel still names it."""
        ...

    def signing(self, model: str, number: int) -> SigningRequest:
        """Return the bytes to sign so that release `number` (and the model's floor) is published."""
        ...

    def accept_signature(
        self, model: str, number: int, *, key_id: str, signature: str, version: int, actor: str
    ) -> Release:
        """Publish with a signature (hex) made elsewhere over the payload of `signing`.

        Args:
            model: its name.
            number: of the release.
            key_id: of the key that signed.
            signature: Ed25519, in hex.
            version: of the metadata that was signed, as `signing` gave it.
            actor: as in the audit log.
        """
        ...

    def set_floor(self, model: str, min_release: int, *, actor: str) -> None:
        """Forbid every release below `min_release`; the floor never sinks."""
        ...

    def change_channel(
        self,
        name: str,
        change: Callable[[Channel], Channel],
        *,
        actor: str,
        spread_s: int = 0,
        create: bool = True,
        first: Also | None = None,
        also: Also | None = None,
    ) -> Channel:
        """Apply `change` to the current document and publish it as the next version.

        Args:
            name: of the channel.
            change: makes the new document of the current one; name and version are set by the publisher.
            actor: as in the audit log.
            spread_s: seconds over which devices spread their fetch of it; 0 for at once.
            create: make the channel where there is none.
            first: runs in the same transaction, before the channel is read.
            also: runs in the same transaction, last.
        """
        ...

    def delete_release(self, model: str, number: int, *, actor: str) -> Release:
        """Delete a release that nothing names; returns what it was. ConflictError says what does."""
        ...

    def delete_model(self, name: str, *, actor: str) -> Model:
        """Delete a model with its releases, when nothing names it; its numbers are never used again."""
        ...

    def delete_channel(self, name: str, *, actor: str) -> ChannelRow:
        """Delete a channel that nobody follows; its versions go on, should there be one of its name again."""
        ...

    def refresh(self, *, force: bool = False) -> tuple[str, ...]:
        """Sign anew what is due (all online roles when `force`); returns the roles signed."""
        ...

    def expiring(self, *, within_days: float) -> dict[str, float]:
        """Roles that only a ceremony can renew and that end within so many days, with that time (Unix seconds)."""
        ...

    def replay(self, entries: Sequence[Entry], tail: Position) -> tuple[str, ...]:
        """Carry out what the journal forbids and the database lacks; what an operator has to do then, in sentences."""
        ...

    def lift(self, held: Held, *, command: bytes, actor: str) -> bool:
        """Publish above what `held` proves by the hub's own signatures; False when that is nothing new.

        `command` is the target of the command key that is held here."""
        ...

    def rise(self) -> None:
        """Publish far above what is known, after a restore."""
        ...

    def recover(self) -> None:
        """Bring the store up to what the database says was published."""
        ...

    def catch_up(self) -> None:
        """Show what a hub has committed and not shown, as the store did not answer or the hub ended: at the second call
        that meets it."""
        ...

    def withheld(self) -> AbstractContextManager[None]:
        """Sign and keep what is published in the block, and let nobody see it: the next publication, or `recover`,
        shows all of it at once. For a process that serves nobody yet."""
        ...


class Issued(NamedTuple):
    """A certificate (PEM) with its serial number (hex) and its end (Unix seconds)."""

    certificate: str
    serial: str
    expires_at: float


class KeyAndCertificate(NamedTuple):
    """PEM bytes of an unencrypted PKCS#8 key and its certificate."""

    key: bytes
    certificate: bytes


class Authority(Protocol):
    """The hub's certificate authority; see `identity.ca.Authority`."""

    ca_pem: bytes

    def device(self, device_id: str, public_key: EllipticCurvePublicKey, now: float, days: float) -> Issued:
        """A certificate for a device's key."""
        ...

    def server(self, hostnames: tuple[str, ...], now: float, *, key: bytes | None = None) -> KeyAndCertificate:
        """A server certificate; `key` (PEM) is used again when given."""
        ...

    def hub_client(
        self, now: float, *, key: bytes | None = None, name: str = HUB_IDENTITY, days: float = 825
    ) -> KeyAndCertificate:
        """The certificate that the hub itself shows to the broker."""
        ...

    def revocation_list(self, serials: tuple[str, ...], now: float) -> bytes:
        """The signed list of revoked certificates (PEM)."""
        ...


class DeviceTokens(Protocol):
    """Short-lived tokens of devices; see `identity.device_tokens.DeviceTokens`."""

    group_secret: bytes

    def nonce(self, device_id: str, *, now: float) -> str:
        """Return a text for a device to sign, in exchange for a token."""
        ...

    def check_nonce(self, device_id: str, nonce: str, *, now: float) -> None:
        """UnauthenticatedError unless the nonce is ours, for this device, and in time."""
        ...

    def token(self, device_id: str, *, now: float) -> str:
        """A bearer token."""
        ...

    def looks_like(self, text: str) -> bool:
        """Tell whether a bearer token is a device's."""
        ...

    def verify_token(self, text: str, *, now: float) -> str:
        """The device behind a token; UnauthenticatedError otherwise."""
        ...

    def ends_at(self, text: str) -> float:
        """Return when a verified token ends, in Unix seconds."""
        ...


class CommandKey(Protocol):
    """Signs commands to devices; see `trust.keys.CommandKey`. `public` is its public half, 32 bytes."""

    public: bytes

    def sign(self, payload: bytes) -> Signed:
        """`payload` with its signature."""
        ...

    def target(self) -> bytes:
        """The content of the signed target that names it."""
        ...


class Part(Struct, frozen=True):
    """The state of one part of the hub; `reason` says why it is not ok."""

    state: State
    reason: str = ""


class Board(Protocol):
    """A board on which services record their states, from any thread."""

    def say(self, part: Literal["broker", "ingest"], wrong: str) -> None:
        """`part` works, or `wrong` says what does not."""
        ...

    def read(self) -> dict[str, Part]:
        """The parts `broker` and `ingest`."""
        ...
