"""The policies in force, by model: what the followed channel says, or safe defaults without one."""

from __future__ import annotations

from fleet.protocol.channel import Channel, ModelEntry

DEFAULT = ModelEntry(release=0)


class Policies:
    """Swapped whole when the channel changes, so a request sees one version only."""

    def __init__(self) -> None:
        self.channel: Channel | None = None

    def apply(self, channel: Channel | None) -> None:
        """Follow a new channel version from now on."""
        self.channel = channel

    def entry(self, model: str) -> ModelEntry:
        """The channel's entry for a model; the defaults (no audit, no samples) when it has none."""
        if self.channel is None:
            return DEFAULT
        return self.channel.models.get(model, DEFAULT)

    def models(self) -> list[str]:
        """The models that the channel names."""
        return [] if self.channel is None else list(self.channel.models)

    def knows(self, model: str) -> bool:
        """Return whether the channel names the model."""
        return self.channel is not None and model in self.channel.models
