"""Ceremonies: what needs the offline keys. Making a repository, renewing its metadata, rotating keys."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key

from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.store.tables import AuditEntry, Setting
from cloud_hub.trust import keys, repository
from cloud_hub.trust.rows import COMMAND_SETTING
from cloud_hub.trust.transaction import Draft, Transactions

ROTATABLE = ("root", "targets", "release", "rollout", "snapshot", "timestamp", "command")
_PREVIOUS = ".previous"


def make_keys(online: Path, offline: Path, passphrase: bytes, *, release_held: bool) -> dict[str, Ed25519PrivateKey]:
    """Make and write all keys of a new hub.

    Args:
        online: the folder of keys that the hub holds.
        offline: the folder of keys that lie elsewhere.
        passphrase: seals the offline ones.
        release_held: the hub holds the release key, too.

    Returns:
        The keys by name, `command` included.
    """
    made = {name: keys.generate() for name in (*keys.OFFLINE, *keys.ONLINE, "command")}
    for name, key in made.items():
        away = name in keys.OFFLINE or (name == "release" and not release_held)
        keys.save_key((offline if away else online) / f"{name}.pem", key, passphrase if away else None)
    return made


def create_repository(transactions: Transactions, made: Mapping[str, Ed25519PrivateKey]) -> None:
    """Publish version 1 of every role, signed with all keys; ConflictError when there is one already."""
    publics = {name: keys.public(key.public_key()) for name, key in made.items() if name != "command"}
    command = keys.CommandKey(made["command"]).target()

    def change(draft: Draft) -> None:
        if draft.bodies:
            raise ConflictError("this database has a repository already", subject="repository")
        end = repository.expiry(draft.now, 1)  # the transaction sets each role's own
        draft.signed["root"] = repository.new_root(publics, end)
        draft.signed["targets"] = repository.new_targets(publics, {repository.COMMAND_TARGET: command}, end)
        draft.files[repository.COMMAND_TARGET] = command
        draft.session.add(Setting(key=COMMAND_SETTING, value=command.decode()))
        for role in repository.DELEGATED:
            draft.signed[role] = repository.empty_targets(end)

    signers = {role: [one] for role, one in keys.signers_by_role(made).items()}
    transactions.run(change, signers=signers)


def renew(transactions: Transactions, offline: Path, passphrase: bytes | None) -> tuple[str, ...]:
    """Sign root and targets (and models, when its key lies with the offline ones) for another year.

    Args:
        transactions: those of the hub's repository.
        offline: the folder of the offline keys.
        passphrase: of these keys; None where they have none.

    Returns:
        the roles that were signed.
    """
    held = _offline_keys(offline, passphrase)
    signers = {role: [one] for role, one in keys.signers_by_role(held).items()}
    roles = [role for role in ("root", "targets", "models") if role in signers or role in transactions.signers]

    def change(draft: Draft) -> tuple[str, ...]:
        for role in roles:
            draft.change(role)
        _audit(draft, "keys.renew", ",".join(roles))
        return tuple(roles)

    return transactions.run(change, signers=signers)


def rotate(transactions: Transactions, name: str, online: Path, offline: Path, passphrase: bytes | None) -> str:
    """Replace a key. The old file is kept beside as `….previous`.

    The new key is on disk (`….next`) before it is announced. After a crash in between, the same command finishes what
    it began.

    Args:
        transactions: of the repository.
        name: one of `ROTATABLE`.
        online, offline: the folders of keys.
        passphrase: of the offline ones; None where none is needed.

    Returns:
        The new key's id.

    Raises:
        InvalidError: no such key.
        NotFoundError, ForbiddenError: offline keys that are missing, or another passphrase.
    """
    if name not in ROTATABLE:
        raise InvalidError(f"no key is called {name!r}", subject=name, hint=f"one of: {', '.join(ROTATABLE)}")
    held = _offline_keys(offline, passphrase)
    away = (offline / f"{name}.pem").exists()
    path = (offline if away else online) / f"{name}.pem"
    old, new = keys.load_key(path, passphrase if away else None), keys.generate()
    pending = path.with_name(path.name + ".next")
    if pending.exists():
        begun = keys.load_key(pending, passphrase if away else None)
        if transactions.run(lambda draft: _announced(draft, name, begun)):
            return _put_in_place(path, pending, name, begun)
    keys.save_key(pending, new, passphrase if away else None, replace=True)
    signers = {role: [one] for role, one in keys.signers_by_role({**held, name: new}).items()}
    if name == "root":
        signers["root"] = [keys.signer(old), keys.signer(new)]

    def change(draft: Draft) -> None:
        _replace(draft, name, new)
        _audit(draft, "keys.rotate", name)

    transactions.run(change, signers=signers)
    return _put_in_place(path, pending, name, new)


def _put_in_place(path: Path, pending: Path, name: str, new: Ed25519PrivateKey) -> str:
    shutil.copy2(path, path.with_name(path.name + _PREVIOUS))
    pending.replace(path)
    return _key_id(name, new)


def _key_id(name: str, key: Ed25519PrivateKey) -> str:
    return keys.CommandKey(key).key_id if name == "command" else str(keys.public(key.public_key()).keyid)


def _announced(draft: Draft, name: str, key: Ed25519PrivateKey) -> bool:
    """Return whether the repository names `key` as its key `name` already."""
    if name == "command":
        target = draft.peek("targets").targets[repository.COMMAND_TARGET]
        return bool(target.hashes == repository.target_file("x", keys.CommandKey(key).target()).hashes)
    roles = [role for role, key_name in keys.KEY_OF_ROLE.items() if key_name == name]
    return all(_key_id(name, key) in _key_ids(draft, role) for role in roles)


def _key_ids(draft: Draft, role: str) -> list[str]:
    return repository.key_ids(draft.peek("root"), draft.peek("targets"), role)


def _replace(draft: Draft, name: str, new: Ed25519PrivateKey) -> None:
    if name == "command":
        draft.set_target("targets", repository.COMMAND_TARGET, data := keys.CommandKey(new).target())
        draft.session.merge(Setting(key=COMMAND_SETTING, value=data.decode()))
        return
    after = keys.public(new.public_key())
    for role, key_name in keys.KEY_OF_ROLE.items():
        if key_name != name:
            continue
        delegator = draft.change("targets" if role in repository.DELEGATED else "root")
        _swap(draft, delegator, role, after)
        if role != "root":
            draft.change(role)


def _swap(draft: Draft, delegator: Any, role: str, after: Key) -> None:
    for key_id in _key_ids(draft, role):
        delegator.revoke_key(key_id, role)
    delegator.add_key(after, role)


def _offline_keys(offline: Path, passphrase: bytes | None) -> dict[str, Ed25519PrivateKey]:
    names = [name for name in (*keys.OFFLINE, "release") if (offline / f"{name}.pem").exists()]
    missing = [name for name in keys.OFFLINE if name not in names]
    if missing:
        raise NotFoundError(
            f"no {missing[0]}.pem in {offline}", subject=str(offline), hint="give the directory of the offline keys"
        )
    return {name: keys.load_key(offline / f"{name}.pem", passphrase) for name in names}


def _audit(draft: Draft, action: str, subject: str) -> None:
    draft.session.add(AuditEntry(at=draft.now, actor="ceremony", action=action, subject=subject, detail={}))
