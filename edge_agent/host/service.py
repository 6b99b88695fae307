"""`edge-agent service`: the agent as a systemd service of its own user, hardened, and how it goes away again.

What is written are two files: the unit, and what `systemd-sysusers` makes user and group from. The agent's folder stays
when the service goes, unless it is purged. With another root than `/` files are written into an image, where nothing
can be started.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from edge_agent.errors import AgentError, ConflictError, DeniedError, NotFoundError, UsageError
from edge_agent.host.sharing import GROUP

MARK = "# Written by `edge-agent service install`; changed by the next one. Overrides: `systemctl edit`."
USER = "edge-agent"
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
UNITS = Path("etc/systemd/system")
SYSUSERS = Path("etc/sysusers.d")
STATE = Path("/var/lib")
RUNS = Path("/run/systemd/system")  # is there where systemd is the init: sd_booted(3)
CLOSED = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 (what the unit cannot see)
FOLDER = "# The agent's folder: "  # the unit's second line, for whoever removes it

Command = Callable[[Sequence[str]], None]


class ServiceUnit(Struct, frozen=True, kw_only=True):
    """The service to install. `root` is where files go; `program` is the `edge-agent` to start."""

    program: Path
    directory: Path
    name: str = USER
    user: str = USER
    group: str = GROUP
    port: int | None = None
    devices: tuple[str, ...] = ()
    root: Path = Path("/")

    @property
    def unit(self) -> Path:
        """The path of the unit."""
        return self.root / UNITS / f"{self.name}.service"

    @property
    def users(self) -> Path:
        """The path of the declaration of user and group."""
        return self.root / SYSUSERS / f"{self.name}.conf"

    @property
    def image(self) -> bool:
        """True if the files are another system's."""
        return self.root.resolve() != Path("/")


_UNIT = """\
{mark}
{folder}
[Unit]
Description=Edgeloop agent
After=network.target
# An agent whose model ends it again and again is how a bad release is found out: systemd must not give up.
StartLimitIntervalSec=0
ConditionPathIsDirectory={identity}

[Service]
Type=notify
WatchdogSec=90
TimeoutStartFailureMode=abort
User={user}
Group={group}
UMask=0027
ExecStart={command}
Restart=always
RestartSec=2
KillMode=mixed
# A self-test that takes too much memory ends alone.
OOMPolicy=continue
{keep}
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
{devices}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
# The self-test locks itself in.
SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_of(service: ServiceUnit) -> str:
    """The text of the unit.

    Not among its bounds: `MemoryDenyWriteExecute`, since runtimes may make code; `RestrictSUIDSGID`, since the agent
    shares its folder with the group by the set-group-ID bit; `PrivateNetwork`, for the hub.
    """
    folder = service.directory
    words = [str(service.program), "run", "--dir", str(folder), "--uds", str(folder / "api.sock")]
    words += [] if service.port is None else ["--port", str(service.port)]
    own = folder.parent == STATE
    keep = (
        [f"StateDirectory={folder.name}", "StateDirectoryMode=2750"]
        if own
        else [f"ReadWritePaths={_quoted(_plain(folder))}"]
    )
    allowed = [f"DeviceAllow={device} rw" for device in service.devices]
    devices = ["DevicePolicy=closed", *allowed] if service.devices else ["PrivateDevices=yes"]
    command = " ".join(_quoted(_plain(word).replace("$", "$$")) for word in words)
    return _UNIT.format(
        mark=MARK,
        folder=f"{FOLDER}{folder}",
        identity=f"{_plain(folder)}/identity",
        user=service.user,
        group=service.group,
        command=command,
        keep="\n".join(keep),
        devices="\n".join(devices),
    )


def users_of(service: ServiceUnit) -> str:
    """Return the declaration that `systemd-sysusers` reads."""
    group, user = service.group, service.user
    return f'{MARK}\ng {group} -\nu {user} -:{group} "Edgeloop agent" {_quoted(_plain(service.directory))}\n'


def install(service: ServiceUnit, *, start: bool, command: Command) -> list[str]:
    """Write both files, make user, group and folder, and start the service where its device is enrolled.

    Installing again changes what has changed, and restarts.

    Returns:
        What an operator still has to do, line by line.

    Raises:
        UsageError: a name, a folder or a program that no service can have. ConflictError: a unit of this name that was
            not written here. DeniedError: not root. AgentError: a command of the system failed.
    """
    _check(service)
    _check_system(service, "install")
    for path in (service.unit, service.users):
        if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
            raise ConflictError(
                f"{path} was not written by this command", subject=str(path), hint="choose another --name, or remove it"
            )
    _write(service.users, users_of(service))
    _write(service.unit, unit_of(service))
    command(["systemd-sysusers", *_root(service), str(service.users)])
    folder = _inside(service.root, service.directory)
    enrolled = (folder / "identity").is_dir()
    if not service.image:
        _give(folder, service)
        command(["systemctl", "daemon-reload"])
    command(["systemctl", *_root(service), "enable", f"{service.name}.service"])
    if start and enrolled and not service.image:
        command(["systemctl", "restart", f"{service.name}.service"])
        return []
    return _left(service, enrolled=enrolled)


def uninstall(service: ServiceUnit, *, purge: bool, command: Command) -> list[str]:
    """Stop the service and remove its files; its folder, identity and models in it, only with `purge`.

    Which folder that is, its unit says. User and group stay, as they do for Debian's packages: files of theirs may be
    anywhere.

    Raises:
        NotFoundError: no such service. ConflictError: a unit that was not written here, or a folder that is no agent's.
        DeniedError: not root. AgentError: a command of the system failed.
    """
    _check_names(service)
    _check_system(service, "uninstall")
    if not service.unit.exists():
        raise NotFoundError(f"there is no {service.unit}", subject=service.name, hint="see `systemctl list-units`")
    text = service.unit.read_text("utf-8", "replace")
    if not text.startswith(MARK):
        raise ConflictError(f"{service.unit} was not written by this command", subject=str(service.unit))
    folder = _inside(service.root, Path(text.splitlines()[1].removeprefix(FOLDER)))
    there = folder.is_dir() and any(folder.iterdir())
    if purge and there and not (folder / "identity").is_dir():
        raise ConflictError(f"{folder} holds no device's identity", subject=str(folder), hint="remove it by hand")
    command(["systemctl", *_root(service), "disable", *([] if service.image else ["--now"]), f"{service.name}.service"])
    service.unit.unlink()
    service.users.unlink(missing_ok=True)
    if not service.image:
        command(["systemctl", "daemon-reload"])
    if purge and folder.exists():
        shutil.rmtree(folder)
    return [f"{folder} stays, with identity and models: --purge removes it"] if folder.exists() and there else []


def run_command(words: Sequence[str]) -> None:
    """Run a command of the system; raises AgentError with what it said where it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise AgentError(
            f"{words[0]} is not there: this system has no systemd", hint="write a service for the init that it has"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise AgentError(f"{' '.join(words)} did not end within 120 s", hint="see journalctl -xe") from error
    if done.returncode:
        raise AgentError(f"{' '.join(words)} failed: {(done.stderr or done.stdout).strip()}", hint="see journalctl -xe")


def _check_names(service: ServiceUnit) -> None:
    for what, name in (("--name", service.name), ("--user", service.user), ("--group", service.group)):
        if not NAME.fullmatch(name):
            hint = "lower-case letters, digits and hyphens, at most 31"
            raise UsageError(f"{what} {name!r} cannot be a service's", subject=what, hint=hint)
    _inside(service.root, "/" / UNITS)
    _inside(service.root, "/" / SYSUSERS)


def _check(service: ServiceUnit) -> None:
    _check_names(service)
    for what, path in (("--dir", service.directory), ("the program", service.program)):
        if not path.is_absolute() or any(ord(letter) < 32 for letter in str(path)):
            raise UsageError(f"{what} {path} is no absolute path", subject=what, hint="such as /var/lib/edge-agent")
    if len(service.directory.parts) < 3:
        raise UsageError(f"--dir {service.directory} is the system's", subject="--dir", hint="/var/lib/edge-agent")
    if any(device[:5] != "/dev/" or not device.isprintable() or " " in device for device in service.devices):
        raise UsageError("--device is a path under /dev", subject="--device", hint="such as /dev/apex_0")
    found = _inside(service.root, service.directory)
    if found.resolve() != service.root.resolve() / service.directory.relative_to("/"):
        raise UsageError(
            f"--dir {service.directory} is a link, or lies behind one", subject="--dir", hint=f"name {found.resolve()}"
        )
    closed = next((place for place in CLOSED if _under(service.program, place)), "")
    if closed and not service.image:
        raise UsageError(
            f"{service.program} lies under {closed}, where the service cannot see it",
            subject=str(service.program),
            hint="python3 -m venv /opt/edgeloop, /opt/edgeloop/bin/pip install edgeloop, and this command from there",
        )
    closed = next((place for place in CLOSED if _under(service.directory, place)), "")
    if closed:
        raise UsageError(
            f"--dir {service.directory} lies under {closed}, where the service cannot see it",
            subject="--dir",
            hint="move it to /var/lib/edge-agent",
        )


def _check_system(service: ServiceUnit, action: str) -> None:
    """Before anything is written."""
    if service.image:
        return
    if not RUNS.is_dir():
        raise AgentError(
            "systemd does not run here",
            subject=str(RUNS),
            hint="--root DIR writes into an image; else see `service show`",
        )
    if os.geteuid() != 0:
        raise DeniedError(f"a service is {action}ed by root", hint=f"sudo edge-agent service {action} …")


def _inside(root: Path, path: Path) -> Path:
    """Return the place of `path` in an image.

    Raises:
        ConflictError: a link in the image leads out of it.
    """
    found = root / path.relative_to("/")
    if not found.resolve().is_relative_to(root.resolve()):
        raise ConflictError(
            f"{found} leads out of {root}", subject=str(found), hint="a link in the image must be relative"
        )
    return found


def _under(path: Path, place: str) -> bool:
    return path.is_relative_to(place) or path.resolve().is_relative_to(place)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)


def _give(folder: Path, service: ServiceUnit) -> None:
    """Folder and contents to the service's user. Who has the folder cannot lead this out of it by a link."""
    owner = pwd.getpwnam(service.user)
    folder.mkdir(parents=True, exist_ok=True)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for _, _, files, place in os.fwalk(".", dir_fd=top):
            os.fchown(place, owner.pw_uid, owner.pw_gid)
            for name in files:
                os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=place, follow_symlinks=False)
        os.fchmod(top, 0o2750)
    finally:
        os.close(top)


def _left(service: ServiceUnit, *, enrolled: bool) -> list[str]:
    """Return the commands that are still to be run by hand."""
    start = f"systemctl start {service.name}"
    if enrolled:
        return [start]
    enroll = f"{service.program} enroll https://HUB:8080 --token TOKEN --dir {service.directory}"
    return [enroll if service.image else f"sudo -u {service.user} {enroll}", start]


def _root(service: ServiceUnit) -> list[str]:
    return [f"--root={service.root.resolve()}"] if service.image else []


def _plain(path: Path | str) -> str:
    """Text where systemd takes specifiers."""
    return str(path).replace("%", "%%")


def _quoted(word: str) -> str:
    """A word where systemd takes several (systemd.syntax(7), Quoting)."""
    kept = word.replace("\\", "\\\\").replace('"', '\\"')
    return kept if re.fullmatch(r"[\w./:@%$-]+", kept) else f'"{kept}"'
