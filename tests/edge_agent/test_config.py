"""The agent's configuration: file, environment, command line, in rising order."""

from __future__ import annotations

import pytest

from edge_agent.config import load_config
from edge_agent.errors import UsageError


def test_the_command_line_outranks_the_environment_and_that_the_file(tmp_path):
    (tmp_path / "agent.toml").write_text('port = 1\npoll_s = 2.5\nuds = "a"\nvariants = ["litert-fp32"]\n')
    config = load_config(
        tmp_path, overrides={"port": 3, "uds": None}, environ={"EDGELOOP_PORT": "2", "EDGELOOP_UDS": "b"}
    )
    assert (config.port, config.uds, config.poll_s, config.variants) == (3, "b", 2.5, ("litert-fp32",))
    assert load_config(tmp_path / "none", environ={}).port is None


@pytest.mark.parametrize(
    ("text", "word"),
    [("port = ", "cannot be read"), ("prot = 1", "prot"), ('port = "many"', "port"), ("\0", "cannot be read")],
)
def test_a_wrong_file_is_named_with_what_is_wrong_in_it(tmp_path, text, word):
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(UsageError, match=word) as caught:
        load_config(tmp_path, environ={})
    assert str(tmp_path) in str(caught.value) or caught.value.subject.startswith(str(tmp_path))
