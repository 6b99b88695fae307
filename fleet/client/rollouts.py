"""Channels and rollouts."""

from __future__ import annotations

from fleet.api.channels import (
    ChangedChannel,
    ChannelChanges,
    ChannelExplanation,
    ChannelInfo,
    ChannelPage,
    EntryChanges,
    NewChannel,
)
from fleet.api.rollouts import (
    CreatedRollout,
    NewRollout,
    Order,
    RolloutEventInfo,
    RolloutEventPage,
    RolloutForecast,
    RolloutInfo,
    RolloutOrder,
    RolloutPage,
)
from fleet.client.calls import Calls, path_of


class RolloutCalls(Calls):
    """Calls about the desired state and how it is reached."""

    def channels(self) -> list[ChannelInfo]:
        """Every channel."""
        return list(self._items("/channels", ChannelPage))

    def channel(self, name: str) -> ChannelInfo:
        """One channel with its document."""
        return self._get(path_of("channels", name), ChannelInfo)

    def explain_device(self, device: str) -> ChannelExplanation:
        """Explain the release that a device should run of each model of its channel."""
        return self._get(path_of("devices", device, "explain"), ChannelExplanation)

    def create_channel(self, wanted: NewChannel) -> ChangedChannel:
        """A new channel, which names no model yet."""
        return self._post("/channels", wanted, ChangedChannel)

    def delete_channel(self, name: str) -> ChannelInfo:
        """Delete a channel that nobody follows."""
        return self._delete(path_of("channels", name), ChannelInfo)

    def remove_channel_model(self, channel: str, model: str) -> ChangedChannel:
        """Take a model off a channel; its devices keep what they have of it."""
        return self._delete(path_of("channels", channel, "models", model), ChangedChannel)

    def set_channel_model(self, channel: str, model: str, changes: EntryChanges) -> ChangedChannel:
        """Change one model's entry: release, routing, audit, sampling, probation.

        Args:
            channel: the channel's name.
            model: the model's name.
            changes: fields that are not set stay as they are.
        """
        return self._change("PUT", path_of("channels", channel, "models", model), changes, ChangedChannel)

    def change_channel(self, channel: str, changes: ChannelChanges) -> ChangedChannel:
        """Change the channel's telemetry or fetching."""
        return self._change("PATCH", path_of("channels", channel), changes, ChangedChannel)

    def plan_rollout(self, wanted: NewRollout) -> RolloutForecast:
        """Forecast the time and evidence that a rollout takes, and name what it lacks; nothing is started."""
        return self._post("/rollouts/plan", wanted, RolloutForecast)

    def create_rollout(self, wanted: NewRollout) -> CreatedRollout:
        """Start a staged rollout."""
        return self._post("/rollouts", wanted, CreatedRollout)

    def rollouts(self, *, limit: int | None = None, since: float = 0.0, device: str = "") -> list[RolloutInfo]:
        """Return the rollouts that match, newest first.

        Args:
            limit: at most so many; None for all.
            since: Unix seconds; rollouts that were created then or later.
            device: one that they reached; empty for any.
        """
        query = [("since", repr(since))] * bool(since) + [("device", device)] * bool(device)
        return list(self._items("/rollouts", RolloutPage, query, limit=limit))

    def rollout(self, rollout: str) -> RolloutInfo:
        """One rollout with its progress and evidence."""
        return self._get(path_of("rollouts", rollout), RolloutInfo)

    def rollout_events(self, rollout: str) -> list[RolloutEventInfo]:
        """Read the events of a rollout, in order."""
        return list(self._items(path_of("rollouts", rollout, "events"), RolloutEventPage))

    def order_rollout(self, rollout: str, order: Order, *, reason: str = "", stage: int | None = None) -> RolloutInfo:
        """Pause, resume, abort, retry, approve or promote a rollout.

        Args:
            rollout: its id.
            order: the verb.
            reason: in words, for the history.
            stage: counted from 1, 0 is the shadow stage; the order is refused once the rollout is at another one.
        """
        given: dict[str, str | int] = {"reason": reason} if reason else {}
        if stage is not None:
            given["stage"] = stage
        body = RolloutOrder.model_validate(given)
        return self._post(path_of("rollouts", rollout, order), body, RolloutInfo)
