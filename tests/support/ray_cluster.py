"""A Ray cluster of two nodes on this machine, on loopback, with a token.

Its processes end with the one that has started it, however that ends, and its files go then.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STORE = 80_000_000  # bytes of each node's object store
PATIENCE_S = 300  # for what a busy machine starts; by itself Ray gives up after 30 s
SYSTEM = {  # a node that is killed is missed at once, one that is only slow is not
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": PATIENCE_S * 1000,
    "health_check_failure_threshold": 3,
    "agent_register_timeout_ms": PATIENCE_S * 1000,
    "worker_register_timeout_seconds": PATIENCE_S,
}
# Removes a folder when it hears a word, or when nobody is left to say one: then after those who are ending there.
SWEEP = """
read -r word || for second in $(seq 60); do
    grep -qs "$0/ray" /proc/[0-9]*/cmdline || break
    sleep 1
done
rm -rf "$0"
"""


class TwoNodes:
    """Nodes of one CPU each; the second can be killed."""

    def __init__(self, temporary: str) -> None:
        from ray.cluster_utils import Cluster

        common: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 0,
            "object_store_memory": STORE,
            "include_dashboard": False,
            "include_log_monitor": False,
            "no_monitor": True,
        }
        head = {**common, "_system_config": SYSTEM, "temp_dir": temporary}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second = self._cluster.add_node(**common)
        self.address: str = self._cluster.address

    def kill(self) -> None:
        """SIGKILL to all processes of the second node."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    @contextmanager
    def only_second(self) -> Iterator[Callable[[], None]]:
        """Takes the first node's CPU; gives what lets it go."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        class Taken:
            """A CPU."""

        here = NodeAffinitySchedulingStrategy(self._cluster.head_node.node_id, soft=False)
        taken: Any = ray.remote(num_cpus=1)(Taken).options(scheduling_strategy=here).remote()
        ray.get(taken.__ray_ready__.remote())
        yield lambda: ray.kill(taken)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """The cluster, for this process and its children."""
    with folder() as temporary, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's only way to say: loopback
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(temporary.parent),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            "RAY_gcs_server_port_wait_time_s": str(PATIENCE_S),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }.items():
            patch.setenv(name, value)
        _wait_longer(patch)
        nodes = TwoNodes(str(temporary))
        try:
            yield nodes
        finally:
            nodes.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of Ray's, whose sockets need short paths; gone afterwards, also when this process is killed."""
    base = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with subprocess.Popen(["sh", "-c", SWEEP, base], stdin=subprocess.PIPE, start_new_session=True) as sweeper:
        place = Path(base) / "ray"  # Ray's name for it, below RAY_TMPDIR
        place.mkdir()
        try:
            yield place
        finally:
            sweeper.communicate(b"now\n")


def _wait_longer(patch: pytest.MonkeyPatch) -> None:
    """Two waits of Ray's for a node that starts have no setting."""
    from ray._private import services

    look = services.get_node

    def get_node(address: str, node: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return look(address, node)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def wait_for_node(address: str, store: str, timeout: float) -> None:
        wait(address, store, PATIENCE_S)

    wait = services.wait_for_node
    patch.setattr(services, "get_node", get_node)
    patch.setattr(services, "wait_for_node", wait_for_node)
