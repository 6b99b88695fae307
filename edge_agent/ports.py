"""The ports between the agent's parts; adapters implement them, fakes pass the same contract tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
from msgspec import Struct

from edge_agent.errors import CorruptBlobError, UnreadableError
from fleet.protocol.channel import RolloutRef
from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Manifest, Variant
from fleet.protocol.messages import AgentReport, ModelReport

Arrays = dict[str, npt.NDArray[Any]]


class InstalledRelease(Struct, frozen=True, kw_only=True):
    """A verified release in the store; `blobs` is the folder of content-addressed files.

    `former` is the interface of the release that it replaced here, where one is known: what that one took,
    applications of this device may send.
    """

    model: str
    number: int
    manifest: Manifest
    variant: Variant
    blobs: Path
    former: Interface | None = None

    def open_blob(self, sha256: str) -> bytes:
        """The bytes of a blob: read once, hashed, and only then handed out.

        Raises:
            CorruptBlobError: the file is missing or does not have that hash. UnreadableError: it cannot be read now.
        """
        return read_blob(self.blobs, sha256)


def read_blob(folder: Path, sha256: str) -> bytes:
    """Read `folder/<sha256>` once and check those very bytes; raises CorruptBlobError or UnreadableError."""
    try:
        data = (folder / sha256).read_bytes()
    except FileNotFoundError as error:
        raise CorruptBlobError(f"blob {sha256} is missing", subject=sha256, hint="it is fetched again") from error
    except OSError as error:
        raise UnreadableError(f"blob {sha256} cannot be read: {error}", subject=sha256) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptBlobError(f"blob {sha256} does not have that hash", subject=sha256, hint="it is fetched again")
    return data


class ReleaseHealth(Struct, frozen=True, kw_only=True):
    """Requests and failures of the active release since its activation.

    `newly_refused` requests are not among `requests`: the release refused them, and the one before it would have
    taken them; `refusal` says why, of the latest. What both refuse says nothing about the release.
    `p95_us` is the 95th percentile of its latest `timed` run times, in microseconds, without any cloud call.
    """

    requests: int
    failures: int
    newly_refused: int = 0
    refusal: str = ""
    timed: int = 0
    p95_us: float = 0.0


class LoadedModel(Protocol):
    """A model in memory."""

    @property
    def joins(self) -> bool:
        """True if every input and output counts the same rows first, as many as there are."""

    def run(self, inputs: Arrays) -> Arrays:
        """Answer one request; raises ValueError (inputs) or RuntimeError (the runtime)."""

    def close(self) -> None:
        """Give the memory back."""


class Runtime(Protocol):
    """A model runtime, named by its distribution."""

    name: str
    version: str

    def load(self, model: bytes, manifest: Manifest, variant: Variant, front: bytes = b"") -> LoadedModel:
        """Load a variant from memory.

        Args:
            model: the variant's file.
            manifest: the release's.
            variant: one of the manifest's.
            front: the model file in front of it; empty where the release has none.

        Raises:
            ModelLoadError: the runtime refuses the file, or its tensors are not the manifest's.
        """


def load_variant(runtime: Runtime, read: Callable[[str], bytes], manifest: Manifest, variant: Variant) -> LoadedModel:
    """Load a variant, and the front of its release.

    Args:
        runtime: of the variant's kind.
        read: returns a blob by its SHA-256; its errors come through.
        manifest: the release's.
        variant: one of the manifest's.

    Raises:
        ModelLoadError: the runtime refuses it.
    """
    model, front = read(variant.blob.sha256), manifest.in_front
    if front is None:
        return runtime.load(model, manifest, variant)
    return runtime.load(model, manifest, variant, front=read(front.blob.sha256))


class Activator(Protocol):
    """Puts releases into service."""

    async def activate(
        self, release: InstalledRelease, previous: InstalledRelease | None, pairing: RolloutRef | None
    ) -> None:
        """Load and swap; requests in flight finish on the old one.

        Args:
            release: the one to serve.
            previous: the one to load beside it for paired audits; None for none.
            pairing: the rollout that these audits are evidence for; None for none.

        Raises:
            ActivationError: it cannot be loaded, or not in time; the one before still serves.
            UnreadableError: a file cannot be read now.
        """

    async def deactivate(self, model: str) -> None:
        """Take a model out of service."""

    def health(self, model: str) -> ReleaseHealth:
        """Requests and failures since activation."""


class Reporter(Protocol):
    """The receiver of the agent's reports (the spool)."""

    def model(self, report: ModelReport) -> None:
        """A transition or failure of one model."""

    def agent(self, report: AgentReport) -> None:
        """Report the device's properties."""


class Signer(Protocol):
    """Signs with the device's key, and checks others' signatures; blocking, from any thread."""

    def sign(self, key: str, nonce: str) -> bytes:
        """Sign a token's nonce with the key in the identity's file `key` (`pairs.KEY`, `pairs.NEXT_KEY`).

        Raises:
            IdentityError: the file is no key. SignerError: nobody answers.
        """

    def verify(self, public: bytes, signature: bytes, payload: bytes) -> bool:
        """Tell whether a key signed a payload.

        Args:
            public: Ed25519, 32 bytes.
            signature: 64 bytes; any others are false.
            payload: the signed bytes.

        Raises:
            SignerError: nobody answers.
        """


class HubResponse(Protocol):
    """An HTTP answer, read whole."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields by name."""

    @property
    def data(self) -> bytes:
        """The body."""


class Credential(Struct, frozen=True, kw_only=True):
    """A device's proof of identity to a server that is not its hub: the text in `file`, to `origin` and nowhere else.

    It goes as `header: scheme text`; an empty `scheme` sends the text alone. `ca_file`: the server's authority, PEM.
    """

    origin: str
    file: str
    header: str = "authorization"
    scheme: str = "Bearer"
    ca_file: str = ""


class HubCalls(Protocol):
    """Authenticated calls to the hub; blocking, from any thread."""

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> HubResponse:
        """Call the hub with the device's token.

        Args:
            method: such as `GET`.
            path: starts with a slash and holds the query.
            body: bytes to send; None for none.
            headers: by name.
            timeout: seconds of silence.

        Raises:
            UnreachableError: the hub does not answer.
        """


class Stream(Protocol):
    """An HTTP answer whose body is read piece by piece."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in any case."""

    def read1(self, amt: int) -> bytes:
        """Return the bytes that have arrived, at most `amt`; empty at the end."""


class HubStreams(Protocol):
    """Authenticated downloads."""

    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> AbstractContextManager[Any]:
        """Open a `Stream`; no redirect is followed. Args as `HubCalls.request`.

        Raises:
            UnreachableError: the hub does not answer.
            DeniedError: the hub refuses this device.
        """
