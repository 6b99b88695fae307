"""Tokens and devices."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.api.devices import (
    CommandInfo,
    DeletedDevice,
    DeviceChanges,
    DeviceDetail,
    DeviceInfo,
    DevicePage,
    NewCommand,
    QueuedCommand,
    SetAsideInfo,
    SetAsidePage,
)
from fleet.api.tokens import CreatedToken, NewToken, TokenInfo, TokenPage
from fleet.api.vitals import VitalsHour, VitalsPage
from fleet.client.calls import Calls, path_of

PAGE = 1000  # devices that the hub gives at most at once


class DeviceCalls(Calls):
    """Calls about who may do what, and about devices."""

    def create_token(self, wanted: NewToken) -> CreatedToken:
        """A new token; its text is shown once."""
        return self._post("/tokens", wanted, CreatedToken)

    def tokens(self) -> list[TokenInfo]:
        """Every token, without its secret."""
        return list(self._items("/tokens", TokenPage))

    def revoke_token(self, token_id: str) -> TokenInfo:
        """End a token."""
        return self._delete(path_of("tokens", token_id), TokenInfo)

    def delete_token(self, token_id: str) -> TokenInfo:
        """End a token and take it off the list."""
        return self._delete(path_of("tokens", token_id) + "?forget=true", TokenInfo)

    def devices(
        self, *, labels: Sequence[str] = (), channel: str = "", limit: int | None = None, after: str = ""
    ) -> list[DeviceInfo]:
        """Return the devices that match, by id.

        Args:
            labels: each as `key=value`; a device carries all of them.
            channel: the one that it follows; empty for any.
            limit: at most so many; None for all.
            after: an id; only devices after it.
        """
        query = [("label", label) for label in labels] + [("channel", channel)] * bool(channel)
        query += [("after", after)] * bool(after)
        if limit is not None:
            query.append(("limit", str(min(limit, PAGE))))
        return list(self._items("/devices", DevicePage, query, limit=limit))

    def device(self, device: str) -> DeviceDetail:
        """One device with its models and last events."""
        return self._get(path_of("devices", device), DeviceDetail)

    def device_vitals(self, device: str, *, since: float = 0.0) -> list[VitalsHour]:
        """Return the vital signs of a device's machine in each hour that ends after `since` (Unix seconds), the
        oldest first."""
        query = [("since", repr(since)), ("limit", str(PAGE))]
        return list(self._items(path_of("devices", device, "vitals"), VitalsPage, query))

    def set_aside(self, device: str) -> list[SetAsideInfo]:
        """The messages of a device that the hub could not take, with their reasons, newest first."""
        return list(self._items(path_of("devices", device, "set-aside"), SetAsidePage))

    def change_device(self, device: str, changes: DeviceChanges) -> DeviceInfo:
        """Change labels, pins (null removes an entry, others stay) or the channel."""
        return self._change("PATCH", path_of("devices", device), changes, DeviceInfo)

    def revoke_device(self, device: str) -> DeviceInfo:
        """Refuse this device from now on."""
        return self._post(path_of("devices", device, "revoke"), None, DeviceInfo)

    def delete_device(self, device: str) -> DeletedDevice:
        """Delete a device that was revoked or never came, in as many calls as that takes."""
        rows = 0
        while True:
            done = self._delete(path_of("devices", device), DeletedDevice)
            rows += done.rows
            if not done.left:
                return done.model_copy(update={"rows": rows})

    def command_device(self, device: str, command: NewCommand) -> QueuedCommand:
        """Queue a command."""
        return self._post(path_of("devices", device, "commands"), command, QueuedCommand)

    def command(self, device: str, command: str) -> CommandInfo:
        """Read the state of a command, with the device's answer if it is there."""
        return self._get(path_of("devices", device, "commands", command), CommandInfo)
