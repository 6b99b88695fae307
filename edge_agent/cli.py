"""The `edge-agent` command: arguments in, exit code out. Imports little, so that it starts fast."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.cli_arguments import build_parser
from edge_agent.errors import AgentError, UsageError
from fleet.console import flush, write_any_letter
from fleet.console.exits import Exit
from fleet.console.logs import set_up

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.update.install import InstallResult

RunAgent = Callable[["AgentConfig", str], int]
InstallBundle = Callable[["AgentConfig", Path], "InstallResult"]


def main(argv: list[str] | None, run_agent: RunAgent, install_bundle: InstallBundle) -> int:
    """Parse and execute; errors go to stderr with a hint."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["tuf-client"]:  # hidden: the public conformance suite's own command line
        from edge_agent.update.worker.tuf_command import tuf_client_main

        return tuf_client_main(words[1:])
    write_any_letter()
    arguments = build_parser().parse_args(words)
    set_up("INFO")
    logging.captureWarnings(True)
    from fleet.protocol.errors import ProtocolError

    try:
        if arguments.command == "run":
            return _run(arguments, run_agent)
        if arguments.command == "install":
            return _install(arguments, install_bundle)
        code: int = COMMANDS[arguments.command](arguments)
        flush()
        return code
    except BrokenPipeError:
        return 1
    except (AgentError, ProtocolError, OSError) as error:
        from edge_agent.complaint import complaint

        said = complaint(error, arguments.command, getattr(arguments, "dir", None))
        _complain(said.text, said.hint)
        return said.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _enroll(arguments: argparse.Namespace) -> int:
    import platform

    from edge_agent import VERSION, runtimes
    from edge_agent.identity.enroll import enroll

    hardware = {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()}
    hardware |= {f"runtime:{name}": version for name, version in runtimes.available().items()}
    done = enroll(arguments.url, arguments.token, arguments.dir, name=arguments.name, agent=VERSION, hardware=hardware)
    print(f"enrolled as {done.device_id} on channel {done.channel}")
    print(f"next: edge-agent run --dir {arguments.dir}")
    return 0


def _run(arguments: argparse.Namespace, run_agent: RunAgent) -> int:
    from edge_agent.config import load_config
    from edge_agent.host.owner import check_owner
    from fleet.serving.seldom import Seldom

    check_owner(arguments.dir, "run")
    given = {
        "port": arguments.port,
        "uds": arguments.uds,
        "grpc_port": arguments.grpc_port,
        "log_format": arguments.log_format,
    }
    config = load_config(arguments.dir, overrides=given)
    set_up(config.log_level, config.log_format, program="edge-agent", directory=str(config.dir))
    logging.getLogger().setLevel(config.log_level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())
    return run_agent(config, arguments.redact)


def _install(arguments: argparse.Namespace, install_bundle: InstallBundle) -> int:
    import msgspec

    from edge_agent.config import load_config
    from edge_agent.host.owner import check_owner
    from edge_agent.update.download.folder import check_bundle

    check_owner(arguments.dir, "install FOLDER")
    check_bundle(arguments.folder)  # the same mistake has the same exit code, whether an agent runs or not
    outcome = install_bundle(load_config(arguments.dir), arguments.folder)
    if arguments.json:
        print(msgspec.json.encode(outcome).decode())
        return 0 if outcome.done else 1
    if outcome.by == "agent":
        print(f"handed over to the agent that runs in {arguments.dir}")
    for model in outcome.models:
        what = f"model {model.model} release {model.wanted}"
        if model.reason:
            _complain(f"{what}: {model.reason}: {model.detail}", model.hint)
        else:
            print(f"{what} is installed ({model.state})")
    for name in outcome.left_out:
        print(f"model {name} is not in this bundle, and stays as it is")
    if outcome.reason:
        _complain(f"{arguments.folder}: {outcome.reason}: {outcome.detail}", outcome.hint)
    return 0 if outcome.done else 1


def _complain(text: str, hint: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    if hint:
        print(f"try: {hint}", file=sys.stderr)


def _status(arguments: argparse.Namespace) -> int:
    from edge_agent import status_lines
    from edge_agent.client import status

    document = status(arguments.dir)
    if arguments.json:
        print(json.dumps(document))
        return 0
    print("\n".join(status_lines.lines(document, arguments.dir)))
    return 0


def _infer(arguments: argparse.Namespace) -> int:
    import numpy as np

    from edge_agent import given_arrays
    from edge_agent.client import infer

    given = given_arrays.read(arguments.input)
    response = infer(arguments.model, given, url=arguments.url, directory=arguments.dir)
    outputs = {value.name: value.array.tolist() for value in response.outputs}
    if arguments.json:
        document = {
            "model": response.model_name,
            "version": response.model_version,
            "parameters": response.parameters,
            "outputs": outputs,
        }
        print(json.dumps(document))
        return 0
    print(f"{response.model_name} release {response.model_version}, {response.parameters}")
    for value in response.outputs:
        print(f"{value.name}: {np.array2string(value.array, precision=4, threshold=50)}")
    return 0


def _selftest(arguments: argparse.Namespace) -> int:
    import msgspec

    from edge_agent.runtimes import selftest
    from fleet.protocol.manifest import decode_manifest

    try:
        manifest = decode_manifest(arguments.manifest.read_bytes())
    except OSError as error:
        raise UsageError(f"the manifest cannot be read: {error}", subject=str(arguments.manifest)) from error
    outcome = selftest.run(manifest, arguments.variant, arguments.blobs, arguments.runtime)
    if arguments.json:
        print(msgspec.json.encode(outcome).decode())
    elif outcome.passed:
        print(f"passed: {outcome.vectors} vectors, worst difference {outcome.worst:.4g}")
    else:
        print(f"failed: {outcome.reason}")
    return 0 if outcome.passed else 1


def _runtimes(arguments: argparse.Namespace) -> int:
    from edge_agent.runtimes import RUNTIMES, available

    found = [{"name": name, "kind": RUNTIMES[name][1], "version": version} for name, version in available().items()]
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{entry['name']} {entry['version']} ({entry['kind']})" for entry in found) or "none")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from edge_agent import bench

    return bench.main(arguments)


def _service(arguments: argparse.Namespace) -> int:
    import sysconfig

    from edge_agent.host import service

    asked = service.ServiceUnit(
        program=Path(sysconfig.get_path("scripts")) / "edge-agent",
        directory=getattr(arguments, "dir", None) or service.STATE / arguments.name,
        name=arguments.name,
        port=getattr(arguments, "port", None),
        devices=tuple(getattr(arguments, "device", ())),
        root=arguments.root,
    )
    if arguments.action == "show":
        print(service.unit_of(asked), end="")
        return 0
    if arguments.action == "install":
        left = service.install(asked, start=not arguments.no_start, command=service.run_command)
        print(f"{asked.unit} is installed" + ("; it runs" if not left else ""))
        print("".join(f"next: {line}\n" for line in left), end="")
        return 0
    left = service.uninstall(asked, purge=arguments.purge, command=service.run_command)
    print("\n".join([f"{asked.unit} is removed", *left]))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "enroll": _enroll,
    "status": _status,
    "infer": _infer,
    "selftest": _selftest,
    "runtimes": _runtimes,
    "bench": _bench,
    "service": _service,
}
