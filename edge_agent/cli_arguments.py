"""The arguments of the `edge-agent` command: every subcommand with its options, its help and an example."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fleet.console import installed_version
from fleet.console.arguments import Parser
from fleet.console.exits import SHORT


class _Version(argparse.Action):
    """Says the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"edge-agent {installed_version()}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """All commands, each with an example."""
    parser = Parser(
        prog="edge-agent",
        description="Runs models on this device: pulls, verifies, serves, falls back to the cloud, reports.",
        epilog="example: edge-agent enroll https://hub:8443 --token el1.… --dir /var/lib/edge-agent. " + SHORT,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_running(commands)
    _add_asking(commands)
    _add_measuring(commands)
    _add_service(commands)
    return parser


def _add_running(commands: Any) -> None:
    """Enrolment, serving, and installing without a network."""
    enroll = _add(
        commands,
        "enroll",
        "make this device's key and enrol it with a hub",
        "edge-agent enroll https://hub:8443 --token el1.… --dir agent1",
    )
    enroll.add_argument("url", help="the hub's address")
    enroll.add_argument("--token", required=True, help="claim token from `fleet token create`")
    enroll.add_argument("--name", default="", help="device name to ask for (default: the hub chooses)")
    _add_dir(enroll)

    run = _add(
        commands,
        "run",
        "serve the models that the hub's channel names",
        "edge-agent run --dir agent1 --port 8200",
        service=True,
    )
    _add_dir(run)
    run.add_argument(
        "--port", type=int, help="loopback port of the local API (0: any free one; 8200, or none with --uds alone)"
    )
    run.add_argument("--uds", help="listen on this Unix socket (mode 0660), beside --port where that is given")
    run.add_argument(
        "--grpc-port", type=int, help='answer gRPC here, too (0: any free port; pip install "edgeloop[grpc]")'
    )
    run.add_argument("--log-format", choices=("text", "json"), help="how the log on standard error is written (text)")
    run.add_argument("--redact", default="", metavar="MODULE:FUNCTION", help="hook that sees samples first")

    install = _add(
        commands,
        "install",
        "install from a folder that `fleet release bundle` wrote, without any network",
        "edge-agent install /media/usb/bundle --dir agent1",
    )
    install.add_argument("folder", type=Path, help="the bundle")
    _add_dir(install)
    _add_json(install)


def _add_asking(commands: Any) -> None:
    status = _add(commands, "status", "what runs here, and why not more", "edge-agent status --dir agent1 --json")
    _add_dir(status)
    _add_json(status)

    infer = _add(
        commands, "infer", "ask the agent for one answer", "edge-agent infer digits --input x.npy --dir agent1"
    )
    infer.add_argument("model")
    infer.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="[NAME=]FILE",
        help=".npy file: an input, batch first; repeat with the NAME of each of several, or one .npz of them all",
    )
    where = infer.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="the agent's address, as http://127.0.0.1:8200")
    where.add_argument("--dir", type=Path, help="the agent's directory")
    _add_json(infer)


def _add_measuring(commands: Any) -> None:
    """The commands that try and measure releases without the agent."""
    test = _add(
        commands,
        "selftest",
        "run a release's golden vectors on a runtime of this machine",
        "edge-agent selftest --manifest manifest.json --variant litert-int8 --blobs blobs",
    )
    test.add_argument("--manifest", required=True, type=Path)
    test.add_argument("--variant", required=True)
    test.add_argument("--blobs", required=True, type=Path, help="folder of files named by their SHA-256")
    test.add_argument("--runtime", default="", help="ai-edge-litert, tflite-runtime or onnxruntime (default: the best)")
    _add_json(test)

    listed = _add(
        commands, "runtimes", "list the model runtimes of this environment, best first", "edge-agent runtimes"
    )
    _add_json(listed)

    bench = _add(
        commands,
        "bench",
        "measure a release on this device: latency, load time, memory",
        "edge-agent bench --dir agent1 --model digits",
    )
    what = bench.add_mutually_exclusive_group(required=True)
    what.add_argument("--dir", type=Path, help="the agent's directory: what is installed there")
    what.add_argument("--release-dir", type=Path, help="a compiled release: manifest.json and blobs/")
    bench.add_argument("--model", default="", help="only this installed model")
    bench.add_argument("--variant", default="", help="only this variant (default: all for the edge)")
    bench.add_argument("--rounds", type=int, default=200, help="calls that are timed, at batch 1 (200)")
    _add_json(bench)


def _add_service(commands: Any) -> None:
    """The agent as a service of this system."""
    service = _add(commands, "service", "the agent as a systemd service of its own user", "edge-agent service install")
    actions = service.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = _add(
        actions,
        "install",
        "write the unit, make user and group, start it where the device is enrolled",
        "sudo /opt/edgeloop/bin/edge-agent service install --port 8200",
    )
    install.add_argument("--port", type=int, help="loopback port of the local API, beside the Unix socket")
    install.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="PATH",
        help="a device that a runtime uses, such as /dev/apex_0; repeatable",
    )
    install.add_argument("--no-start", action="store_true", help="enable it only: it starts with the machine")
    show = _add(actions, "show", "print the unit, and write nothing", "edge-agent service show")
    remove = _add(
        actions,
        "uninstall",
        "stop it and remove its files; identity and models stay",
        "sudo edge-agent service uninstall",
    )
    remove.add_argument("--purge", action="store_true", help="remove its directory, too: identity and models")
    for parser in (install, show):
        parser.add_argument("--dir", type=Path, help="the agent's directory (/var/lib/NAME)")
    for parser in (install, show, remove):
        parser.add_argument("--name", default="edge-agent", help="of the service")
        parser.add_argument("--root", type=Path, default=Path("/"), help="an image's root, in place of this system's")


def _add(commands: Any, name: str, text: str, example: str, *, service: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}", service=service
    )
    return parser


def _add_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", required=True, type=Path, help="the agent's directory")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
