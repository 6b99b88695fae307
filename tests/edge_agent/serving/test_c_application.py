"""`examples/application/ask.c` asks the agent as an application without a library does."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig
from edge_agent.serving.server import bind_local_api, make_server
from tests.support import models
from tests.support.agent import Agent
from tests.support.require import require

SOURCE = Path(__file__).parents[3] / "examples" / "application" / "ask.c"
STRICT = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-O2")


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled without a warning."""
    program = tmp_path_factory.mktemp("c") / "ask"
    done = subprocess.run(
        [require("gcc", "gcc"), *STRICT, "-o", program, SOURCE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


def test_it_gets_an_answer_and_says_what_is_refused(ask: Path, tmp_path: Path) -> None:
    agent, path = Agent(tmp_path), tmp_path / "api.sock"
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    listeners = bind_local_api(AgentConfig(dir=tmp_path, uds=str(path)))

    async def call(*words: str) -> tuple[int | None, str, str]:
        program = await asyncio.create_subprocess_exec(
            ask, path, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await program.communicate()
        return program.returncode, out.decode(), err.decode()

    async def scenario() -> None:
        server = make_server(agent.app, agent.shared)
        task = asyncio.create_task(server._serve(listeners))
        code, out, err = await call("tiny", "input", "4", "9", "0", "0", "-1e-3")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert found["parameters"]["served_by"] == "edge" and found["outputs"][0]["name"] == "logits"
        code, out, err = await call("other", "input", "1", "9")
        assert (code, out) == (1, "") and "other" in json.loads(err)["error"]
        code, _, err = await call("tiny", "input", "3", "1", "2", "3")
        assert code == 1 and "error" in json.loads(err)
        server.should_exit = True
        await task

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["m", "i", "1", "5"], 3),
        (["m", "i", "2", "5"], 2),
        (["m", "i", "1", "five"], 2),
        (["m", "i", "1", "nan"], 2),
        (["../m", "i", "1", "5"], 2),
        (["m", 'i"', "1", "5"], 2),
        ([], 2),
    ],
)
def test_what_cannot_be_asked_ends_with_a_code_of_its_own(
    ask: Path, tmp_path: Path, words: list[str], code: int
) -> None:
    done = subprocess.run([ask, tmp_path / "none.sock", *words], capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stdout == "" and done.stderr
