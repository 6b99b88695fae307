"""The entry: what the `edge-agent` command does in a process that runs an agent, or installs as one.

`agent` names the concrete parts, and is imported when one is asked for: `edge-agent --help` needs none of them.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import cli as commands
from edge_agent.errors import UsageError
from edge_agent.host.lock import agent_lock, is_running

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.telemetry.samples import Redact
    from edge_agent.update.install import InstallResult


def main(argv: list[str] | None = None) -> int:
    """The `edge-agent` command."""
    return commands.main(argv, run_agent, install_bundle)


def run_agent(config: AgentConfig, redact: str) -> int:
    """Run until SIGTERM or SIGINT."""
    from edge_agent.host import memory

    faulthandler.enable(2)  # a model may end the process by a signal: the log then says where
    with agent_lock(config.dir):
        memory.begin()
        from edge_agent.agent import Agent

        asyncio.run(Agent(config, load_redaction(redact)).run())
    return 0


def install_bundle(config: AgentConfig, folder: Path) -> InstallResult:
    """Install from a bundle: in this process, or by the agent that runs already. ConflictError: one just started."""
    from edge_agent.agent import Agent
    from edge_agent.update.install import ask_agent_to_install

    if is_running(config.dir):
        return ask_agent_to_install(config.dir, folder)
    with agent_lock(config.dir):
        return asyncio.run(Agent(config).install(folder))


def load_redaction(name: str) -> Redact | None:
    """The hook `module:function`; raises UsageError when it cannot be imported."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found: Redact = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the redaction hook {name!r} cannot be loaded: {error}", hint="--redact MODULE:FUNCTION"
        ) from error
    return found


if __name__ == "__main__":
    sys.exit(main())
