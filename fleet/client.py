"""Typed client of the hub's operator API (`/api/v1`).

Methods take typed arguments and return the documents that the hub answers with; fields are named as
in the hub's tables and in `fleet.protocol`. Every failure is a `fleet.errors.FleetError`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fleet.errors import BY_STATUS, FailedError, FleetError
from fleet.transport import Answer, Transport

API = "/api/v1"
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0

Document = dict[str, Any]


class Client:
    """An operator's view of one hub."""

    def __init__(self, transport: Transport, token: str) -> None:
        self._transport = transport
        self._token = token

    # ---- tokens and devices ------------------------------------------------------------------

    def create_token(self, kind: str, **fields: Any) -> Document:
        """A new token of `kind` (claim, operator, application, mirror); its text is shown once.

        Fields: role, scope, rate_per_s, channel, labels, note, expires_in_s.
        """
        return self._json("POST", "/tokens", {"kind": kind, **_given(fields)})

    def tokens(self) -> list[Document]:
        """Every token, without its secret."""
        return list(self._items("/tokens"))

    def revoke_token(self, token_id: str) -> Document:
        """End a token."""
        return self._json("DELETE", _path("tokens", token_id))

    def devices(self, *, labels: Sequence[str] = (), channel: str = "") -> list[Document]:
        """Devices that carry all `labels` (`key=value`) and follow `channel`."""
        query = [("label", label) for label in labels] + ([("channel", channel)] if channel else [])
        return list(self._items("/devices", query))

    def device(self, device: str) -> Document:
        """One device with its models."""
        return self._json("GET", _path("devices", device))

    def set_aside(self, device: str) -> list[Document]:
        """The messages of a device that the hub could not take, with their reasons, newest first."""
        return list(self._items(_path("devices", device, "set-aside")))

    def change_device(self, device: str, **changes: Any) -> Document:
        """Change labels, pins (null removes an entry, others stay) or the channel."""
        return self._json("PATCH", _path("devices", device), _given(changes))

    def revoke_device(self, device: str) -> Document:
        """Refuse this device from now on."""
        return self._json("POST", _path("devices", device, "revoke"), {})

    def command_device(self, device: str, kind: str, **args: Any) -> Document:
        """Queue a command (`diagnose`, `benchmark`, `send-samples`, `set-log-level`); its id."""
        return self._json("POST", _path("devices", device, "commands"), {"kind": kind, "args": args})

    # ---- models and releases -----------------------------------------------------------------

    def models(self) -> list[Document]:
        """Every model name."""
        return list(self._items("/models"))

    def model(self, name: str) -> Document:
        """One model."""
        return self._json("GET", _path("models", name))

    def create_model(self, name: str, *, recipe: str = "", policy: Document | None = None) -> Document:
        """A new model name, with the recipe that trains it."""
        return self._json("POST", "/models", _given({"name": name, "recipe": recipe or None, "policy": policy}))

    def has_blob(self, sha256: str) -> bool:
        """Whether the hub's store holds the blob."""
        answer = self._send("HEAD", _path("blobs", sha256))
        if answer.status == 404:
            return False
        self._check(answer, f"blob {sha256}")
        return True

    def put_blob(self, sha256: str, file: Path) -> None:
        """Upload a file; the hub verifies the hash."""
        headers = {"content-type": "application/octet-stream", "content-length": str(file.stat().st_size)}
        with file.open("rb") as body:
            answer = self._transport.send(
                "PUT",
                API + _path("blobs", sha256),
                body=body,
                headers={**self._headers(), **headers},
                timeout=UPLOAD_TIMEOUT_S,
            )
        self._check(answer, f"blob {sha256}")

    def put_delta(self, sha256: str, old: str, file: Path) -> None:
        """Upload the patch that makes blob `sha256` of blob `old`; the hub checks that it says so."""
        headers = {"content-type": "application/octet-stream", "content-length": str(file.stat().st_size)}
        with file.open("rb") as body:
            answer = self._transport.send(
                "PUT",
                API + _path("blobs", sha256, "from", old),
                body=body,
                headers={**self._headers(), **headers},
                timeout=UPLOAD_TIMEOUT_S,
            )
        self._check(answer, f"delta to {sha256}")

    def publish_release(self, model: str, manifest: bytes, *, note: str = "", end_monitoring: bool = False) -> Document:
        """Publish a manifest whose blobs are there: `{model, number, status}`.

        `end_monitoring` says that the release has no drift sketch on purpose, where the model had one.
        """
        headers = {"content-type": "application/json"} | ({"x-note": note} if note else {})
        path = _path("models", model, "releases") + ("?end_monitoring=true" if end_monitoring else "")
        answer = self._send("POST", path, manifest, headers=headers, timeout=UPLOAD_TIMEOUT_S)
        return self._document(answer, f"model {model}")

    def releases(self, model: str) -> list[Document]:
        """Every release of `model`."""
        return list(self._items(_path("models", model, "releases")))

    def release(self, model: str, number: int) -> Document:
        """One release with its manifest."""
        return self._json("GET", _path("models", model, "releases", number))

    def withdraw_release(self, model: str, number: int, reason: str) -> Document:
        """Forbid a release: no device installs it any more."""
        return self._json("POST", _path("models", model, "releases", number, "withdraw"), {"reason": reason})

    def signing_payload(self, model: str, number: int) -> tuple[bytes, int]:
        """The bytes that a publisher's release key must sign, and the metadata version they are of."""
        document = self._json("GET", _path("models", model, "releases", number, "signing"))
        return base64.b64decode(document["payload"]), int(document["version"])

    def send_signature(self, model: str, number: int, *, key_id: str, signature: bytes, version: int) -> Document:
        """Hand in a release key's signature over `signing_payload`."""
        body = {"key_id": key_id, "signature": signature.hex(), "version": version}
        return self._json("POST", _path("models", model, "releases", number, "signature"), body)

    def static(self, path: str) -> bytes | None:
        """A file of the signed repository (`/tuf/metadata/…`, `/tuf/targets/…`); None when there is none."""
        answer = self._transport.send("GET", path, body=None, headers=self._headers(), timeout=TIMEOUT_S)
        if answer.status == 404:
            return None
        self._check(answer, path)
        return answer.body

    def static_piece(self, path: str, start: int, count: int) -> bytes:
        """`count` bytes of a blob (`/blobs/<sha256>`) from `start` on."""
        span = {"range": f"bytes={start}-{start + count - 1}"}
        answer = self._transport.send(
            "GET", path, body=None, headers={**self._headers(), **span}, timeout=UPLOAD_TIMEOUT_S
        )
        self._check(answer, path)
        return answer.body if answer.status == 206 else answer.body[start : start + count]

    # ---- channels and rollouts ---------------------------------------------------------------

    def channels(self) -> list[Document]:
        """Every channel."""
        return list(self._items("/channels"))

    def channel(self, name: str) -> Document:
        """One channel document."""
        return self._json("GET", _path("channels", name))

    def set_channel_model(self, channel: str, model: str, **changes: Any) -> Document:
        """Change one model's entry: release, routing, audit, sampling, probation."""
        return self._json("PUT", _path("channels", channel, "models", model), _given(changes))

    def change_channel(self, channel: str, **changes: Any) -> Document:
        """Change the channel's telemetry or fetching."""
        return self._json("PATCH", _path("channels", channel), _given(changes))

    def create_rollout(
        self, model: str, release: int, channel: str, *, stages: Sequence[float], **options: Any
    ) -> Document:
        """Start a staged rollout; `stages` are percentages that rise to 100; options: guard, soak_s, groups."""
        body = {"model": model, "release": release, "channel": channel, "stages": list(stages)}
        return self._json("POST", "/rollouts", {**body, **_given(options)})

    def rollouts(self) -> list[Document]:
        """Every rollout, newest first."""
        return list(self._items("/rollouts"))

    def rollout(self, rollout: str) -> Document:
        """One rollout with its progress and evidence."""
        return self._json("GET", _path("rollouts", rollout))

    def rollout_events(self, rollout: str) -> list[Document]:
        """What happened in a rollout, in order."""
        return list(self._items(_path("rollouts", rollout, "events")))

    def rollout_action(self, rollout: str, action: str, *, reason: str = "") -> Document:
        """`action`: pause, resume, abort or retry; the reason goes into the history."""
        return self._json("POST", _path("rollouts", rollout, action), {"reason": reason} if reason else {})

    # ---- drift, samples, training ------------------------------------------------------------

    def drift(self, *, model: str = "") -> list[Document]:
        """The drift monitor of every model, or of `model`."""
        return list(self._items("/drift", [("model", model)] if model else []))

    def alarms(self) -> list[Document]:
        """Drift alarms, newest first."""
        return list(self._items("/alarms"))

    def close_alarm(self, alarm: int) -> Document:
        """Close an alarm."""
        return self._json("POST", _path("alarms", alarm, "close"), {})

    def samples(self, *, limit: int | None = None, **filters: Any) -> Iterator[Document]:
        """Samples, filtered by model, reason, labelled; at most `limit`."""
        query = [(key, _text(value)) for key, value in _given(filters).items()]
        return self._items("/samples", query, limit=limit)

    def sample(self, sample: str) -> Document:
        """One sample with its arrays."""
        return self._json("GET", _path("samples", sample))

    def label_samples(self, labels: Mapping[str, int], *, by: str) -> Document:
        """Write down the true class of samples (id -> class)."""
        items = [{"id": sample, "label": label} for sample, label in labels.items()]
        return self._json("POST", "/samples/labels", {"labels": items, "by": by})

    def delete_sample(self, sample: str) -> Document:
        """Delete one sample for good."""
        return self._json("DELETE", _path("samples", sample))

    def export_samples(self, model: str) -> bytes:
        """Every sample of `model` as a Parquet file."""
        answer = self._send("GET", f"/samples/export?{urlencode({'model': model})}", timeout=UPLOAD_TIMEOUT_S)
        self._check(answer, f"samples of {model}")
        return answer.body

    def create_snapshot(self, model: str) -> Document:
        """Freeze a model's samples and labels into a dataset."""
        return self._json("POST", "/snapshots", {"model": model}, timeout=UPLOAD_TIMEOUT_S)

    def snapshots(self) -> list[Document]:
        """Every snapshot."""
        return list(self._items("/snapshots"))

    def retrain(self, model: str, **options: Any) -> Document:
        """Start a retrain job; options: snapshot, channel, rollout."""
        return self._json("POST", _path("models", model, "retrain"), _given(options))

    def jobs(self) -> list[Document]:
        """Every job, newest first."""
        return list(self._items("/jobs"))

    def job(self, job: str) -> Document:
        """One job."""
        return self._json("GET", _path("jobs", job))

    def cancel_job(self, job: str) -> Document:
        """Ask a job to stop."""
        return self._json("POST", _path("jobs", job, "cancel"), {})

    def audit(self, *, limit: int | None = None, after: int | None = None) -> Iterator[Document]:
        """Who did what to what."""
        return self._items("/audit", [] if after is None else [("after", str(after))], limit=limit)

    # ---- plumbing ----------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}", "accept": "application/json"}

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> Answer:
        return self._transport.send(
            method, API + path, body=body, headers={**self._headers(), **(headers or {})}, timeout=timeout
        )

    def _json(self, method: str, path: str, body: Document | None = None, *, timeout: float = TIMEOUT_S) -> Document:
        if body is None:
            answer = self._send(method, path, timeout=timeout)
        else:
            headers = {"content-type": "application/json"}
            answer = self._send(method, path, msgspec.json.encode(body), headers=headers, timeout=timeout)
        return self._document(answer, path)

    def _items(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, limit: int | None = None
    ) -> Iterator[Document]:
        """Follow a list's cursors, page by page."""
        pairs, seen = list(query), 0
        while limit is None or seen < limit:
            page = self._json("GET", f"{path}?{urlencode(pairs)}" if pairs else path)
            for item in page["items"][: None if limit is None else limit - seen]:
                seen += 1
                yield item
            if page.get("next") is None:
                return
            pairs = [pair for pair in pairs if pair[0] != "after"] + [("after", str(page["next"]))]

    def _document(self, answer: Answer, subject: str) -> Document:
        self._check(answer, subject)
        try:
            document = msgspec.json.decode(answer.body or b"{}")
        except msgspec.DecodeError as error:
            raise FailedError(f"the hub's answer is not JSON: {error}", subject=subject, hint=_NOT_A_HUB) from error
        if not isinstance(document, dict):
            raise FailedError("the hub's answer is not a document", subject=subject, hint=_NOT_A_HUB)
        return document

    def _check(self, answer: Answer, subject: str) -> None:
        if 200 <= answer.status < 300:
            return
        raise error_of(answer, subject)


def error_of(answer: Answer, subject: str) -> FleetError:
    """The error that a failed answer stands for, in the hub's own words when it sent some."""
    kind = BY_STATUS.get(answer.status, FailedError)
    try:
        document = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        document = {}
    if not isinstance(document, dict) or not isinstance(document.get("error"), str):
        return kind(f"the hub answered with status {answer.status}", subject=subject, hint=_NOT_A_HUB)
    return kind(
        document["error"], subject=str(document.get("subject") or subject), hint=str(document.get("hint") or "")
    )


_NOT_A_HUB = "does this address belong to an Edgeloop hub of this version?"


def _path(*parts: str | int) -> str:
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _given(fields: Mapping[str, Any]) -> Document:
    return {key: value for key, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
