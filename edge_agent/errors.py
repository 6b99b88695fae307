"""The errors of a device; each carries the operation, its subject, a hint and a stable reason word.

AgentError                   exit 1
 ├── UsageError              exit 2
 ├── NotFoundError           exit 3
 ├── DeniedError             exit 4   the hub refuses this device or token
 ├── ConflictError           exit 5
 ├── UnreachableError        exit 6   no answer from hub or broker
 ├── LateError               exit 8   a deadline passed
 ├── CorruptBlobError        a file is missing or does not have its hash    hash-mismatch
 ├── UnreadableError         a file cannot be read now; it may be good      disk-error
 ├── ActivationError         a release cannot be put into service
 ├── ModelLoadError          a runtime refuses a model
 ├── RuntimeMissingError     a runtime is not installed
 ├── InferenceError          nobody could answer a request
 ├── SpoolError              the disk refuses the spool
 ├── ShadowError             the process that runs a shadowed release ended, hung, or made no sense
 ├── IdentityError           this device has no identity, or a broken one   not-enrolled, bad-certificate
 ├── SignerError             the process that signs and verifies does not answer
 ├── PinError         exit 4 the hub is not the one that the claim token names    wrong-pin
 └── UpdateError             an update stops; `reason` says why
      ├── TrustError         signatures, versions or dates do not hold  untrusted-metadata, expired-…, clock-…, unsigned
      │    └── OlderMetadataError   older than what is held
      ├── RefusedError       a signed release that may not run here     below-floor, withdrawn, gate-broken, no-variant
      ├── FetchError         a download broke off or lied                   fetch-failed, too-slow, too-large, not-found
      ├── DeltaError         a patch is of no use; never reported, the whole file is fetched instead
      ├── DiskFullError      it does not fit                                disk-full
      └── TrialError         the self-test failed, died or took too long    selftest-failed, selftest-timeout

`recoverable` says whether trying again by itself can help. Further words that the update machine gives
without an error: `crash-loop`, `too-many-tries`; in probation `failures`, `refusals`, `no-good-answer` and
`latency`; `interrupted`, `unsupported:<name>`, `bad-manifest`, `bad-channel`; of a bundle `unreadable`, `no-model`,
`bad-request`.
`said` gives word and hint of any error, the disk's own (`disk-full`, `disk-error`) included.
"""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EMFILE)
_SHORT = (errno.EAGAIN, errno.ENOMEM)


class AgentError(Exception):
    """Root of the room."""

    exit_code = 1
    reason = "failed"
    recoverable = False

    def __init__(self, message: str, *, subject: str = "", hint: str = "", op: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.op = op
        self.subject = subject
        self.hint = hint
        if reason:
            self.reason = reason


class UsageError(AgentError):
    """The command line or configuration is wrong."""

    exit_code = 2


class NotFoundError(AgentError):
    """A model, release or file that is not here."""

    exit_code = 3


class DeniedError(AgentError):
    """The hub refuses this device, token or secret."""

    exit_code = 4
    reason = "denied"


class ConflictError(AgentError):
    """Something is there already that contradicts."""

    exit_code = 5


class UnreachableError(AgentError):
    """The hub or broker does not answer."""

    exit_code = 6
    reason = "unreachable"
    recoverable = True


class LateError(AgentError):
    """A deadline passed."""

    exit_code = 8
    reason = "late"
    recoverable = True


class CorruptBlobError(AgentError):
    """A file does not have the hash it is named by."""

    reason = "hash-mismatch"
    recoverable = True


class UnreadableError(AgentError):
    """A file cannot be read now: a disk that fails, or no descriptor left. That says nothing about its bytes."""

    reason = "disk-error"
    recoverable = True


class ActivationError(AgentError):
    """A release cannot be put into service."""

    reason = "activation-failed"


class ModelLoadError(AgentError):
    """A runtime refuses a model."""


class RuntimeMissingError(AgentError):
    """A runtime is not installed; the hint names the extra."""


class InferenceError(AgentError):
    """Nobody could answer a request. `retry_after_s`: in so many seconds somebody may; None when that is not known.

    `busy`: a queue is full, or too much is in flight; nobody failed.
    """

    def __init__(
        self,
        message: str,
        *,
        subject: str = "",
        hint: str = "",
        retry_after_s: float | None = None,
        busy: bool = False,
    ) -> None:
        super().__init__(message, subject=subject, hint=hint)
        self.retry_after_s = retry_after_s
        self.busy = busy


class SpoolError(AgentError):
    """The disk refuses the spool."""


class IdentityError(AgentError):
    """This device has no identity, or one that cannot be read."""

    reason = "not-enrolled"


class SignerError(AgentError):
    """The process that signs and verifies does not answer."""

    recoverable = True


class PinError(AgentError):
    """The hub that answers is not the one the claim token names; nothing secret was sent."""

    exit_code = 4
    reason = "wrong-pin"


class UpdateError(AgentError):
    """An update stops here; what serves goes on serving."""

    reason = "update-failed"
    recoverable = True


class TrustError(UpdateError):
    """Signatures, versions or dates of the signed metadata do not hold."""

    reason = "untrusted-metadata"


class OlderMetadataError(TrustError):
    """Served metadata older than this device has verified: a replay, or a hub restored from a backup."""


class RefusedError(UpdateError):
    """A signed release that may not run on this device."""

    reason = "refused"
    recoverable = False


class FetchError(UpdateError):
    """A download broke off, was too slow, or was not what was signed."""

    reason = "fetch-failed"


class DeltaError(UpdateError):
    """A patch is missing or of no use; the whole file is fetched instead."""

    reason = "fetch-failed"


class DiskFullError(UpdateError):
    """The update does not fit; everything stays as it was."""

    reason = "disk-full"


class ShadowError(AgentError):
    """The process that runs a shadowed release ended, hung, or said what makes no sense."""

    reason = "shadow-failed"


class TrialError(UpdateError):
    """The self-test failed, or the child that ran it died. `sandbox`: what confined it, as far as it came."""

    reason = "selftest-failed"
    recoverable = False
    sandbox: tuple[str, ...] = ()


def said(error: BaseException) -> tuple[str, str]:
    """The stable word and the hint of any error: this room's, the protocol's, or the disk's."""
    reason, hint = getattr(error, "reason", ""), getattr(error, "hint", "")
    if reason:
        return reason, hint
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return "disk-full", "free space on the device"
    if number in _BROKEN:
        return "disk-error", "is the disk mounted for writing, and healthy? the kernel's log says more (dmesg)"
    if number in _SHORT or isinstance(error, MemoryError):
        return "interrupted", "the device has no memory or process to spare; it is tried again"
    if type(error).__name__ == "UnsupportedError":
        return f"unsupported:{getattr(error, 'subject', '')}", hint
    return "failed", hint
