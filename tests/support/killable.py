"""`python -m tests.support.killable DIR DEVICE CHANNEL`: a real updater that starts and looks once, to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edge_agent import runtimes
from edge_agent.config import load_config
from edge_agent.shadow.copies import Copies
from edge_agent.shadow.process import ChildProcesses
from edge_agent.shadow.runner import Shadows
from edge_agent.update.worker.client import ProcessChildren
from tests.support.device import FakeActivator, FakeReporter
from tests.support.shadows import FakeSink
from tests.support.updaters import make_updater


async def main(directory: Path, device: str, channel: str) -> None:
    shadows = Shadows(ChildProcesses(directory), Copies(), FakeSink())
    updater = make_updater(
        load_config(directory),
        device,
        channel,
        FakeActivator(),
        FakeReporter(),
        ProcessChildren(directory),
        kinds=tuple(runtimes.kinds()),
        shadows=shadows,
    )
    await updater.start()
    await updater.run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
