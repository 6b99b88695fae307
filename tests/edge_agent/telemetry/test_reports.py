"""Reports of models: spooled once per transition, and again at a start only when the last one was lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from fleet.protocol.messages import ModelReport
from tests.support.agent import Agent

REPORT = ModelReport(model="tiny", state="committed", active=1)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def test_what_the_spool_took_last_is_not_repeated(agent: Agent, tmp_path: Path) -> None:
    agent.reports.model(REPORT)
    agent.reports.model(REPORT)
    assert len(agent.spool) == 1
    agent.spool.commit(1)  # the hub has it; a restart knows that still
    agent.database.close()
    again = Agent(tmp_path)
    again.reports.model(REPORT)
    assert len(again.spool) == 0
    again.reports.model(replace(REPORT, state="rolled_back", reason="failures"))
    again.reports.model(REPORT)
    assert len(again.spool) == 2


def test_models_do_not_hide_each_other_s_reports(agent: Agent) -> None:
    for model in ("tiny", "other", "tiny"):
        agent.reports.model(replace(REPORT, model=model))
    assert len(agent.spool) == 2


def test_a_report_that_the_disk_refused_is_made_again(agent: Agent) -> None:
    class Full:
        in_transaction = False

        def execute(self, *arguments):
            raise sqlite3.OperationalError("database or disk is full")

    connection = agent.database._connection
    agent.database._connection = Full()
    agent.reports.model(REPORT)
    agent.database._connection = connection
    assert len(agent.spool) == 0
    agent.reports.model(REPORT)
    assert len(agent.spool) == 1
