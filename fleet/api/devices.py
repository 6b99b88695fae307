"""Devices: who they are, what they run, and what an operator may change about them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import Document, Key, ReleaseNumber, Settings
from fleet.api.vitals import DeviceVitals
from fleet.api.wire import Wire
from fleet.protocol.codec import from_document, to_document
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import AgentReport, CommandResult, ModelReport

SILENT = AgentReport(agent="", channel="")  # of a device that has enrolled and reported nothing yet
MAX_ENTRIES = 256  # labels or pins of one request

DeviceState = Literal["online", "offline", "revoked"]
CommandState = Literal["waiting", "sent", "answered", "expired"]


class DeviceChanges(RequestModel):
    """The fields that `PATCH` may change. In `labels` and `pins`, null removes an entry; others stay. An empty
    `channel` stands for the one that the device follows."""

    labels: Annotated[dict[Key, Key | None], Field(max_length=MAX_ENTRIES)] = {}
    pins: Annotated[dict[Key, ReleaseNumber | None], Field(max_length=MAX_ENTRIES)] = {}
    channel: Key | None = None


class NewCommand(RequestModel):
    """A command for a device, with its arguments: `diagnose`, `logs`, `send-samples`, `benchmark`, `set-log-level`."""

    kind: Key
    args: Settings = {}


class DeviceModelInfo(ResponseModel):
    """The state of one model on a device, by its latest report. `untried`: the active release was committed by its
    self-test alone, and no request has been answered yet."""

    model: str
    state: str
    target: int | None = None
    active: int | None = None
    active_variant: str = ""
    previous: int | None = None
    rollout: str = ""
    attempt: int = 0
    channel_version: int = 0
    progress: float = 0.0
    reason: str = ""
    detail: str = ""
    hint: str = ""
    untried: bool = False
    seq: int = 0
    at: float = 0.0


class DeviceEventInfo(ResponseModel):
    """A report that a device sent; `body` is its content as it came, of whatever version, `report` what it means."""

    id: int
    device_id: str
    spool: str
    seq: int
    at: float
    received_at: float
    kind: str
    body: Document = {}

    @property
    def report(self) -> ModelReport | AgentReport | CommandResult | None:
        """The body as the message that it is; None for a kind, or a form, that this version does not know."""
        kinds: dict[str, type[ModelReport | AgentReport | CommandResult]] = {
            "model": ModelReport,
            "agent": AgentReport,
            "result": CommandResult,
        }
        try:
            return from_document(self.body, kinds[self.kind], subject=self.kind) if self.kind in kinds else None
        except MalformedError:
            return None


class HeldBackRelease(ResponseModel):
    """The channel offers `offered`, for which the device's agent lacks something; it keeps `release`, if it has one."""

    offered: int
    lacks: list[str]
    release: int | None = None


class DeviceInfo(ResponseModel):
    """A device with what it runs. `info` is what its agent says of itself, `groups` are its opaque group ids.

    `problem` is a word and `hint` what to do about it: what the hub sees, else what the agent reports. `cloned` is
    whether two machines connect as this device, `set_aside` how many of its messages could not be taken so far,
    `vitals` how its machine does, null where it has not told.
    """

    id: str
    key_fingerprint: str = ""
    certificate_serial: str = ""
    certificate_expires_at: float = 0.0
    channel: str
    labels: dict[str, str] = {}
    pins: dict[str, int] = {}
    info: Annotated[AgentReport, Wire(AgentReport, blank=to_document(SILENT))] = Field(default_factory=lambda: SILENT)
    enrolled_at: float = 0.0
    revoked_at: float | None = None
    online: bool = False
    session: str = ""
    last_seen_at: float | None = None
    command_counter: int = 0
    state: DeviceState
    problem: str = ""
    hint: str = ""
    cloned: bool = False
    set_aside: int = 0
    vitals: DeviceVitals | None = None
    groups: list[str] = []
    models: list[DeviceModelInfo] = []


class DeviceDetail(DeviceInfo):
    """A device with its last events, newest first, and the releases that are held back from it by model."""

    held_back: dict[str, HeldBackRelease] = {}
    events: list[DeviceEventInfo] = []


class DevicePage(Page[DeviceInfo]):
    """Devices by id."""


class DeletedDevice(ResponseModel):
    """A device of which `rows` were deleted; `samples` of it stay until their retention ends. `left`: there are more
    rows, so ask again."""

    id: str
    rows: int
    samples: int = 0
    left: bool = False


class SetAsideInfo(ResponseModel):
    """A message that could not be taken, with the reason; `kept_bytes` of it are kept."""

    id: int
    device_id: str = ""
    received_at: float
    leaf: str = ""
    spool: str = ""
    seq: int | None = None
    reason: str
    detail: str = ""
    kept_bytes: int = 0


class SetAsidePage(Page[SetAsideInfo]):
    """A device's messages that could not be taken, newest first."""


class QueuedCommand(ResponseModel):
    """A command on its way; `GET /api/v1/devices/DEVICE/commands/ID` has its answer when that is there."""

    id: str
    device: str
    kind: str


class CommandAnswer(ResponseModel):
    """A device's answer to a command: whether it did it, the reason if it did not (`detail`), and the result (`data`),
    which is the device's own word."""

    ok: bool
    detail: str = ""
    data: Document = {}
    at: float
    received_at: float


class CommandInfo(QueuedCommand):
    """A command and how it stands: `waiting` to be sent, `sent` to the broker, `answered`, or `expired`: too old to be
    carried out, and without an answer among the device's newest reports."""

    state: CommandState
    created_at: float
    sent_at: float | None = None
    expires_at: float
    answer: CommandAnswer | None = None
