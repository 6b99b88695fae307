"""The support of tests, where a busy machine or a killed run would show it only now and then."""

from __future__ import annotations

import os
import signal
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.locks import until
from tests.support.ray_cluster import folder
from tests.support.warm import NUMBER, heard


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """pytest looks into no folder called `build` by default, and says nothing."""
    patterns, tests = pytestconfig.getini("norecursedirs"), Path(__file__).parents[1]
    folders = {part for path in tests.rglob("test_*.py") for part in path.relative_to(tests).parts[:-1]}
    assert "build" in folders
    assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)]


def test_two_numbers_that_are_said_before_anybody_listens_stay_two() -> None:
    listening, said = os.pipe()
    for number in (1234, 7):
        os.write(said, NUMBER.pack(number))
    os.close(said)
    assert [heard(listening) for _ in range(3)] == [1234, 7, -signal.SIGKILL]
    os.close(listening)


def test_the_folder_of_a_killed_run_goes_after_those_who_still_work_in_it() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with folder() as place:
                os.write(writing, str(place).encode())
                signal.pause()
        finally:
            os._exit(1)
    place = Path(os.read(reading, 1000).decode())
    with subprocess.Popen(["sh", "-c", "read -r word", f"{place}/logs"], stdin=subprocess.PIPE) as works:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert place.is_dir()
        works.communicate()
    until(lambda: not place.parent.exists())
    os.close(reading)
    os.close(writing)


def test_the_folder_of_a_run_that_ends_goes_at_once() -> None:
    with pytest.raises(KeyError), folder() as place:
        raise KeyError
    assert not place.parent.exists()
