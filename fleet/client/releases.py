"""Models, releases, blobs, and the signed files that anyone may carry."""

from __future__ import annotations

import base64
from pathlib import Path

from fleet.api.models import ModelChanges, ModelDetail, ModelInfo, ModelPage, NewModel
from fleet.api.releases import (
    OutsideSignature,
    PublishedRelease,
    ReleaseCard,
    ReleaseDetail,
    ReleaseInfo,
    ReleasePage,
    SigningPayload,
    Withdrawal,
)
from fleet.client.calls import UPLOAD_TIMEOUT_S, Calls, check_answer, path_of


class ReleaseCalls(Calls):
    """Calls about models and releases."""

    def models(self) -> list[ModelInfo]:
        """Every model."""
        return list(self._items("/models", ModelPage))

    def model(self, name: str) -> ModelDetail:
        """One model with its interface."""
        return self._get(path_of("models", name), ModelDetail)

    def create_model(self, wanted: NewModel) -> ModelInfo:
        """A new model name, with the recipe that trains it."""
        return self._post("/models", wanted, ModelInfo)

    def change_model(self, name: str, wanted: ModelChanges) -> ModelInfo:
        """Change recipe, policy or floor, or choose the release whose interface holds."""
        return self._change("PATCH", path_of("models", name), wanted, ModelInfo)

    def delete_model(self, name: str) -> ModelInfo:
        """Delete a model that nothing names, with its releases."""
        return self._delete(path_of("models", name), ModelInfo)

    def has_blob(self, sha256: str) -> bool:
        """Return whether the hub's store holds the blob."""
        answer = self._send("HEAD", path_of("blobs", sha256))
        if answer.status == 404:
            return False
        check_answer(answer, f"blob {sha256}")
        return True

    def put_blob(self, sha256: str, file: Path) -> None:
        """Upload a file; the hub verifies the hash."""
        self._put_file(path_of("blobs", sha256), file, f"blob {sha256}")

    def put_delta(self, sha256: str, old: str, file: Path) -> None:
        """Upload a patch between two blobs; the hub checks that it makes the one of the other.

        Args:
            sha256: of the blob that the patch makes.
            old: SHA-256 of the blob that it starts from.
            file: the patch.
        """
        self._put_file(path_of("blobs", sha256, "from", old), file, f"delta to {sha256}")

    def publish_release(
        self, model: str, manifest: bytes, *, note: str = "", end_monitoring: bool = False
    ) -> PublishedRelease:
        """Publish a manifest whose blobs are there.

        Args:
            model: its name.
            manifest: JSON, as `model-compiler` wrote it.
            note: what is new.
            end_monitoring: the release has no drift sketch on purpose, where the model had one.
        """
        headers = {"content-type": "application/json"} | ({"x-note": note} if note else {})
        path = path_of("models", model, "releases") + ("?end_monitoring=true" if end_monitoring else "")
        answer = self._send("POST", path, manifest, headers=headers, timeout=UPLOAD_TIMEOUT_S)
        return self._read(answer, f"model {model}", PublishedRelease)

    def releases(self, model: str) -> list[ReleaseInfo]:
        """Every release of `model`, newest first."""
        return list(self._items(path_of("models", model, "releases"), ReleasePage))

    def release(self, model: str, number: int) -> ReleaseDetail:
        """One release with its manifest."""
        return self._get(path_of("models", model, "releases", number), ReleaseDetail)

    def release_card(self, model: str, number: int) -> ReleaseCard:
        """A release's model card as Markdown."""
        return self._get(path_of("models", model, "releases", number, "card"), ReleaseCard)

    def withdraw_release(self, model: str, number: int, reason: str) -> ReleaseInfo:
        """Forbid a release: no device installs it any more.

        Args:
            model: the model's name.
            number: the release's.
            reason: in words, shown wherever the release is.
        """
        path = path_of("models", model, "releases", number, "withdraw")
        return self._post(path, Withdrawal(reason=reason), ReleaseInfo)

    def delete_release(self, model: str, number: int) -> ReleaseInfo:
        """Delete a release that nothing names."""
        return self._delete(path_of("models", model, "releases", number), ReleaseInfo)

    def signing_payload(self, model: str, number: int) -> tuple[bytes, int]:
        """The bytes that a publisher's release key must sign, and the metadata version they are of."""
        wanted = self._get(path_of("models", model, "releases", number, "signing"), SigningPayload)
        return base64.b64decode(wanted.payload), wanted.version

    def send_signature(self, model: str, number: int, *, key_id: str, signature: bytes, version: int) -> ReleaseInfo:
        """Hand in a release key's signature over `signing_payload`.

        Args:
            model: the model's name.
            number: the release's.
            key_id: of the key that signed.
            signature: Ed25519, 64 bytes.
            version: of the role `models`, as the payload has it.
        """
        body = OutsideSignature(key_id=key_id, signature=signature.hex(), version=version)
        return self._post(path_of("models", model, "releases", number, "signature"), body, ReleaseInfo)

    def static(self, path: str) -> bytes | None:
        """A file of the signed repository (`/tuf/metadata/…`, `/tuf/targets/…`); None when there is none."""
        answer = self._fetch("GET", path)
        if answer.status == 404:
            return None
        check_answer(answer, path)
        return answer.body

    def static_piece(self, path: str, start: int, count: int) -> bytes:
        """Return a part of a blob.

        Args:
            path: `/blobs/<sha256>`.
            start: the first byte, from 0.
            count: bytes; fewer come at the blob's end.
        """
        span = {"range": f"bytes={start}-{start + count - 1}"}
        answer = self._fetch("GET", path, headers=span, timeout=UPLOAD_TIMEOUT_S)
        check_answer(answer, path)
        return answer.body if answer.status == 206 else answer.body[start : start + count]

    def _put_file(self, path: str, file: Path, subject: str) -> None:
        headers = {"content-type": "application/octet-stream", "content-length": str(file.stat().st_size)}
        with file.open("rb") as body:
            answer = self._send("PUT", path, body, headers=headers, timeout=UPLOAD_TIMEOUT_S)
        check_answer(answer, subject)
