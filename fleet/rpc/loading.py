"""Brings in what needs grpc, for those who ask for it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.rpc.client import RpcClient
    from fleet.rpc.server import RpcServer


def load_server() -> type[RpcServer]:
    """The class; ImportError where the extra `[grpc]` is not installed.

    grpc's core writes to the standard error by itself, by default a line for every connection that fails to speak
    TLS: whoever reaches the port could fill the log. It reads this variable when it is loaded, and then says errors
    of its own only; what a call ends with is our log's business.
    """
    os.putenv("GRPC_VERBOSITY", "ERROR")
    from fleet.rpc.server import RpcServer

    return RpcServer


def load_client() -> type[RpcClient]:
    """The class; ImportError where the extra `[grpc]` is not installed."""
    os.putenv("GRPC_VERBOSITY", "ERROR")
    from fleet.rpc.client import RpcClient

    return RpcClient


def installed() -> bool:
    """Tell whether the extra `[grpc]` is installed; nothing of it is imported."""
    return find_spec("grpc") is not None and find_spec("google") is not None
