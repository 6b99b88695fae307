"""Releases whose key is held elsewhere: what its holder has to sign, and the signature that comes back."""

from __future__ import annotations

import base64
from typing import NamedTuple

from cloud_hub.config_tables import ExpiryConfig
from cloud_hub.errors import ConflictError
from cloud_hub.ports import SigningRequest
from cloud_hub.store.tables import Release, Setting
from cloud_hub.trust import checks, repository
from cloud_hub.trust.listing import audit, list_release, published
from cloud_hub.trust.rows import get_release, interface_release
from cloud_hub.trust.transaction import Draft, Transactions, targets_from_payload
from fleet.protocol.manifest import decode_manifest


class Made(NamedTuple):
    """A signature (hex Ed25519) that was made over the payload of `version`."""

    key_id: str
    signature: str
    version: int


def signing(transactions: Transactions, expiry: ExpiryConfig, model: str, number: int) -> SigningRequest:
    """Make the request to sign release `number` (and the model's floor), so that it can be published.

    The payload is kept until it is signed or the repository has moved on; then ask again.

    Args:
        transactions: those of the hub's repository.
        expiry: how long signatures hold.
        model: of the release.
        number: of the release.

    Raises:
        NotFoundError: there is no such release.
        ConflictError: it has no manifest yet.
    """

    def change(draft: Draft) -> SigningRequest:
        row = get_release(draft.session, model, number)
        if row.status == "reserved":
            raise ConflictError(f"release {number} of {model!r} has no manifest yet", subject=f"{model}/{number}")
        key, version = _setting(model, number), draft.version("models") + 1
        key_id = draft.peek("targets").delegations.roles["models"].keyids[0]
        kept = draft.session.get(Setting, key)
        if kept is not None:
            payload = base64.b64decode(kept.value)
            if targets_from_payload(payload).version == version:
                return SigningRequest(payload=payload, version=version, key_id=key_id)
        list_release(draft, row)
        targets = draft.signed.pop("models")
        targets.expires = repository.expiry(draft.now, expiry.models)
        payload = repository.signing_payload(targets, version)
        draft.session.merge(Setting(key=key, value=base64.b64encode(payload).decode()))
        for path, data in draft.files.items():
            transactions.put_target(path, data)
        draft.files.clear()
        return SigningRequest(payload=payload, version=version, key_id=key_id)

    return transactions.run(change)


def accept(transactions: Transactions, model: str, number: int, made: Made, *, actor: str) -> Release:
    """Publish with a signature made elsewhere over the payload of `signing`.

    Args:
        transactions: those of the hub's repository.
        model: of the release.
        number: of the release.
        made: the signature, its key and the version that it covers.
        actor: as in the audit log.

    Raises:
        InvalidError: the signature does not fit.
        ConflictError: nothing waits for it, the repository has moved on, or the interface is not the model's.
    """

    def change(draft: Draft) -> Release:
        row = get_release(draft.session, model, number)
        if row.status == "awaiting-signature":  # another release may have fixed the interface meanwhile
            current, document = interface_release(draft.session, model), decode_manifest(row.manifest)
            checks.check_interface(current, document, model, ends_monitoring=True)
        kept = draft.session.get(Setting, _setting(model, number))
        if kept is None or made.version != draft.version("models") + 1:
            raise _not_current(model, number)
        targets = targets_from_payload(base64.b64decode(kept.value))
        if targets.version != made.version:
            raise _not_current(model, number)
        body = repository.attach(targets, made.version, made.key_id, made.signature)
        repository.verify_delegated(draft.bodies["targets"], "models", body)
        draft.presigned["models"] = (made.version, body)
        if row.status == "awaiting-signature":
            published(row, draft.now)
        draft.session.add(row)
        draft.session.delete(kept)
        detail: dict[str, object] = {"key_id": made.key_id, "version": made.version}
        audit(draft, actor, "release.sign", f"{model}/{number}", detail)
        return row

    return transactions.run(change)


def _setting(model: str, number: int) -> str:
    return f"signing:{model}:{number}"


def _not_current(model: str, number: int) -> ConflictError:
    hint = "ask for a new one: GET …/signing"
    return ConflictError("this payload is not the current one", subject=f"{model}/{number}", hint=hint)
