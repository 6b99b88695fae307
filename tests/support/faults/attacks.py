"""Attacks on a device from the place of its hub: forged repositories, and answers that are none.

Each is what a device is shown instead of its update: files of a forged repository, and lies for single paths.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from tuf.api.metadata import DelegatedRole, Targets

from cloud_hub.trust.transaction import METADATA, TARGETS
from fleet.protocol import selftest
from fleet.protocol.channel import Rule
from fleet.protocol.codec import encode_json
from fleet.protocol.manifest import Blob, Floor, Lineage, Manifest
from tests.support.faults.forge import Forge, Signers, made_up, stolen
from tests.support.faults.static_hub import StaticHub
from tests.support.faults.world import MODEL, World, model_bytes
from tests.support.hub import PASSPHRASE
from tests.support.models import answer, inputs, onnx_bytes, put

EVIL = 3  # the number of a release that the hub's operator never made
FAST = (2**31 - 1, 2**64, 10**4000)  # versions of a fast-forward
IMPATIENT = "gap_timeout_s = 0.5\ngrace_s = 0.2\n"
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # of deflate: five bytes that unpack to none
Lie = Callable[[BaseHTTPRequestHandler], None]


class Attack(Struct, frozen=True, kw_only=True):
    """`reasons`: one of them must be reported when the attack reached the device, unless there are none;
    one on a timestamp reaches only a device that knows a version above `harmless_to`.

    `heals` is the stage of the honest hub afterwards, if it is not the update's own. `new` is a release that may
    serve besides the update's two, as one that the release key did sign.
    """

    name: str
    files: Mapping[str, bytes]
    lies: Mapping[str, Lie] = {}
    reasons: tuple[str, ...] = ()
    harmless_to: int = 0
    heals: str = ""
    alone: str = "swap"  # the update before which a device is shown it without a power loss
    settings: str = ""
    new: int = 0


# ---- a server that lies ----------------------------------------------------------------------------


class LyingHub:
    """Serves `cases` by name below `url`; `struck` counts the lies that each told."""

    def __init__(self) -> None:
        self.cases: dict[str, Attack] = {}
        self.struck: dict[str, int] = {}
        self.answers = StaticHub()
        self.url = ""

    @contextlib.contextmanager
    def showing(self, name: str, attack: Attack) -> Iterator[str]:
        """The address of an attack, as long as it is under way."""
        self.cases[name], self.struck[name], self.answers.stages[name] = attack, 0, attack.files
        try:
            yield f"{self.url}/{name}"
        finally:
            del self.cases[name], self.answers.stages[name]


class Handler(BaseHTTPRequestHandler):
    """Logs a device in and answers as `server.hub` does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        whole(self, self.server.hub.answers.answer("POST", self.path))

    def do_GET(self) -> None:
        hub: LyingHub = self.server.hub
        name, _, key = self.path.lstrip("/").partition("/")
        attack = hub.cases.get(name)
        lie = (attack.lies.get(key) or attack.lies.get("")) if attack and key != "device/me" else None
        if lie is None:
            whole(self, hub.answers.answer("GET", self.path))
            return
        hub.struck[name] += 1
        with contextlib.suppress(OSError):  # the device has left
            lie(self)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def whole(handler: BaseHTTPRequestHandler, body: bytes | None, *, kind: str = "application/octet-stream") -> None:
    """A complete answer; HTTP 404 without a body."""
    data = body or b""
    handler.send_response(200 if body is not None else 404)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextlib.contextmanager
def lying() -> Iterator[LyingHub]:
    """Serve in threads, on a free loopback port."""
    hub = LyingHub()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.hub = True, hub
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(10)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Data until the device hangs up."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then until the device hangs up."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(1 << 12):
        handler.wfile.write(b" ")
        time.sleep(0.05)  # the attack itself


def packed(pieces: Iterable[bytes]) -> Lie:
    """An answer in gzip that unpacks to nothing, however much comes: empty blocks of five bytes each."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
        for piece in pieces:
            handler.wfile.write(piece)

    return send


def quickly() -> Iterator[bytes]:
    """Empty blocks without a pause, 64 MiB."""
    return itertools.repeat(EMPTY_BLOCK * 13_107, 1 << 10)


def slowly(seconds: float = 200.0, *, every_s: float = 0.05) -> Iterator[bytes]:
    """An empty block now and then."""
    for _ in range(int(seconds / every_s)):
        yield EMPTY_BLOCK
        time.sleep(every_s)  # the attack itself


def instead(data: bytes) -> Lie:
    """Another file."""
    return lambda handler: whole(handler, data)


def login(handler: BaseHTTPRequestHandler) -> None:
    """The answer of a hotel's network to everything."""
    whole(handler, b"<html><title>Welcome, please log in</title></html>", kind="text/html")


def redirect(to: str) -> Lie:
    """Somewhere else."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send


# ---- what is shown -------------------------------------------------------------------------------


class Arsenal:
    """The attacks on a device that goes from release 1 to release 2 of a world's hub.

    The keys that the thief has are those of before the rotation in the world's last stage, to which the operator
    answers a theft; `elsewhere` is an address that no device may ever ask.
    """

    def __init__(self, world: World, static: StaticHub, folder: Path, elsewhere: str) -> None:
        hub = world.hub
        self._keys = stolen(hub.hub.config.keys_dir, hub.offline, PASSPHRASE, before_rotation=True)
        self._folder, self._elsewhere = folder, elsewhere
        stages = {name: world.scenarios[name].stage for name in ("install", "swap", "rotation")}
        self._first, self._second = static.stages[stages["install"]], static.stages[stages["swap"]]
        self._rotated = stages["rotation"]
        self._after = static.stages[self._rotated]

    def all(self) -> list[Attack]:
        """Every attack, by number."""
        return [
            *self._strangers(),
            *self._old(),
            *self._fast(),
            *self._floods(),
            *self._mixed(),
            *self._online(),
            *self._threshold(),
            *self._names(),
            *self._models(),
            *self._addresses(),
        ]

    def _forge(self, signers: Signers | None = None) -> Forge:
        return Forge(self._second, signers or self._keys)

    def _evil(self, forge: Forge, data: bytes, **changes: Any) -> tuple[Manifest, dict[str, bytes]]:
        """The manifest of release `EVIL` and its blobs: release 2 with another model file."""
        good = forge.manifest(MODEL, 2)
        blob = put(self._folder, data)
        variant = replace(good.variants[0], blob=blob, **changes)
        return replace(good, variants=(variant,)), {blob.sha256: data}

    def _strangers(self) -> Iterator[Attack]:
        """A1: release 3 by somebody without keys, up to the timestamp; and one that no role lists."""
        forge = self._forge(made_up(*self._keys))
        forge.release(MODEL, EVIL, *self._evil(forge, model_bytes(EVIL)))
        forge.follow(replace(forge.channel(), models=_wanted(forge, EVIL))).seal()
        yield Attack(name="A1 strange keys", files=forge.files, reasons=("untrusted-metadata",))
        forge = self._forge()
        forge.follow(replace(forge.channel(), models=_wanted(forge, EVIL))).seal()
        yield Attack(name="A1 unsigned", files=forge.files, reasons=("unsigned",), heals=self._rotated)

    def _old(self) -> Iterator[Attack]:
        """A2: the repository as it was, and its timestamp alone."""
        known = Forge(self._first, self._keys).versions["timestamp"]
        for name, key in (("repository", ""), ("timestamp", METADATA + "timestamp.json")):
            files = {**self._second, key: self._first[key]} if key else self._first
            yield Attack(
                name=f"A2 older {name}", files=files, reasons=("untrusted-metadata",), harmless_to=known, alone="halt"
            )

    def _fast(self) -> Iterator[Attack]:
        """A3: versions without end by a stolen online key; and once more after the keys were replaced."""
        for version in FAST:
            name = f"A3 version {version if version < 2**40 else f'of {len(str(version))} digits'}"
            yield Attack(name=name, files=self._forge().seal(version=version).files, heals=self._rotated)
        again = Forge(self._after, self._keys).seal(version=FAST[0])
        yield Attack(name="A3 after rotation", files=again.files, reasons=("untrusted-metadata",), heals=self._rotated)

    def _floods(self) -> Iterator[Attack]:
        """A5, A6 and others: what comes is no repository at all."""
        forge = self._forge()
        model = forge.manifest(MODEL, 2).variants[0].blob.sha256
        keys = {
            "root": f"{METADATA}{forge.versions['root'] + 1}.root.json",
            "timestamp": METADATA + "timestamp.json",
            "snapshot": forge.key("snapshot"),
            "delegation": forge.key("models"),
            "manifest": _of(self._second, f"{TARGETS}models/{MODEL}/", ".2.json"),
            "blob": f"blobs/{model}",
        }
        for kind, key in keys.items():
            yield Attack(name=f"A5 endless {kind}", files=self._second, lies={key: endless}, reasons=("too-large",))
        for kind in ("timestamp", "blob"):
            yield Attack(
                name=f"A6 dripping {kind}",
                files=self._second,
                lies={keys[kind]: drip},
                reasons=("too-slow",),
                settings=IMPATIENT,
            )
        for name, pieces in (("A5 endless nothing, packed", quickly), ("A6 dripping nothing, packed", slowly)):
            lies = {keys["timestamp"]: lambda handler, pieces=pieces: packed(pieces())(handler)}
            yield Attack(name=name, files=self._second, lies=lies, reasons=("unreachable",), settings=IMPATIENT)
        yield Attack(name="login page", files=self._second, lies={"": login}, reasons=("unreachable",))
        lies = {"": redirect(self._elsewhere)}
        yield Attack(name="redirect", files=self._second, lies=lies, reasons=("fetch-failed",))

    def _mixed(self) -> Iterator[Attack]:
        """A7: honest files of one version in the place of another's."""
        old, new = Forge(self._first, self._keys), self._forge()
        for role in ("snapshot", "models", "channels"):
            lies = {new.key(role): instead(self._first[old.key(role)])}
            yield Attack(name=f"A7 older {role}", files=self._second, lies=lies, reasons=("untrusted-metadata",))
        one, two = (_of(self._second, f"{TARGETS}models/{MODEL}/", f".{n}.json") for n in (1, 2))
        yield Attack(
            name="A7 another manifest",
            files=self._second,
            lies={two: instead(self._second[one])},
            reasons=("untrusted-metadata", "fetch-failed", "too-large"),
        )

    def _online(self) -> Iterator[Attack]:
        """A8: the keys of channel, snapshot and timestamp are stolen; the release key's floor holds."""
        for reason, floor in (("below-floor", Floor(min_release=2)), ("withdrawn", Floor(withdrawn=(1,)))):
            forge = self._forge().floor(MODEL, floor)
            forge.follow(replace(forge.channel(), models=_wanted(forge, 1))).seal()
            yield Attack(name=f"A8 {reason}", files=forge.files, reasons=(reason,), heals=self._rotated)

    def _threshold(self) -> Iterator[Attack]:
        """A9: two of three keys sign releases, and one of the three is stolen, with every online key."""
        three = [made_up("models")["models"][0] for _ in range(4)]
        for name, holders in (("one of three", three[:3]), ("after rotation", three[1:])):
            forge = self._forge().delegate("models", holders, 2)
            thief = three[:1] if name == "one of three" else [three[0], three[1]]
            forge.release(MODEL, EVIL, *self._evil(forge, model_bytes(EVIL)), by=thief)
            forge.follow(replace(forge.channel(), models=_wanted(forge, EVIL))).seal()
            yield Attack(name=f"A9 {name}", files=forge.files, reasons=("untrusted-metadata",), heals=self._rotated)

    def _names(self) -> Iterator[Attack]:
        """A12: signed names that would be paths."""
        forge = self._forge()
        entry = forge.channel().models[MODEL]
        data = replace(forge.channel(), models={"../../../evil": entry})
        forge.target("channels", "channels/stable.json", encode_json(data))
        yield Attack(name="A12 model name", files=forge.seal().files, reasons=("bad-channel",), heals=self._rotated)
        forge = self._forge()
        forge.signers["../../evil"] = self._keys["targets"]
        targets, (one,) = forge.signed("targets"), self._keys["targets"]
        targets.delegations.keys[one.public_key.keyid] = one.public_key
        roles = {"../../evil": DelegatedRole("../../evil", [one.public_key.keyid], 1, False, paths=["models/*/*"])}
        targets.delegations.roles = {**roles, **targets.delegations.roles}
        forge.sign("targets", targets)
        forge.sign("../../evil", Targets(expires=forge.expires), version=1)
        quoted = f"{METADATA}1.%2E%2E%2F%2E%2E%2Fevil.json"
        body = forge.files.pop(forge.key("../../evil"))
        forge.files |= {quoted: body, quoted.replace("%2E", "."): body}
        forge.seal(listed={"../../evil": 1})
        yield Attack(name="A12 role name", files=forge.files, heals=self._rotated)

    def _models(self) -> Iterator[Attack]:
        """A13 to A15: releases that the release key signed, with a file that is none, wrong, or reaches elsewhere."""
        good = model_bytes(2)
        litert = {"A13 torn model": good[: len(good) // 2], "A13 wrong answers": model_bytes(EVIL)}
        litert["A15 pickle"] = pickle.dumps(Exploit(self._folder / "owned"))
        for name, data in litert.items():
            yield self._signed(name, data)
        for name, location in (("A14 parent folder", "../identity/device.key"), ("A14 absolute path", "/etc/passwd")):
            yield self._signed(name, external(location), runtime="onnx")

    def _signed(self, name: str, data: bytes, **changes: Any) -> Attack:
        forge = self._forge()
        manifest, blobs = self._evil(forge, data, **changes)
        forge.release(MODEL, EVIL, manifest, blobs)
        forge.follow(replace(forge.channel(), models=_wanted(forge, EVIL))).seal()
        return Attack(name=name, files=forge.files, reasons=("selftest-failed",), heals=self._rotated)

    def _addresses(self) -> Iterator[Attack]:
        """A16: a good release whose manifest, channel and metadata name an address wherever a string may stand."""
        forge, url = self._forge(), self._elsewhere
        manifest, blobs = self._evil(forge, model_bytes(EVIL))
        variant = manifest.variants[0]
        verdict = replace(variant.verdict, metric=url, notes=(url, "file:///etc/passwd"))
        x = inputs(8, seed=1)
        outputs = {variant.name: (selftest.to_array("logits", answer(x) + np.float32(EVIL)),)}
        vectors = selftest.encode_vectors([selftest.Vector(inputs=(selftest.to_array("input", x),), outputs=outputs)])
        blob = put(self._folder, vectors)
        manifest = replace(
            manifest,
            labels=(url,) * 3,
            variants=(replace(variant, verdict=verdict),),
            selftest=replace(manifest.selftest, blob=Blob(sha256=blob.sha256, size=blob.size), vectors=1),
            lineage=Lineage(
                snapshot=url, recipe=url, parents=(url,), tools={url: url}, extra={"blob": url, "url": url, url: [url]}
            ),
        )
        forge.release(MODEL, EVIL, manifest, {**blobs, blob.sha256: vectors})
        entry = forge.channel().models[MODEL]
        entry = replace(entry, release=EVIL, rules=(Rule(groups=(url,), release=EVIL),))
        forge.follow(replace(forge.channel(), models={MODEL: entry}))
        for role in ("models", "channels"):
            signed = forge.signed(role)
            for target in signed.targets.values():
                target.unrecognized_fields["custom"] = {"url": url, "mirrors": [url]}
            signed.unrecognized_fields |= {"url": url, "mirrors": [url], "x-location": url}
            forge.sign(role, signed)
        forge.seal(url=url, mirrors=[url], location=url)
        yield Attack(name="A16 addresses", files=forge.files, heals=self._rotated, new=EVIL)


class Exploit:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def external(location: str, offset: int = 0) -> bytes:
    """The tiny classifier as ONNX, its weights in another file."""
    import onnx

    model = onnx.load_from_string(onnx_bytes())
    tensor = model.graph.initializer[0]
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def _wanted(forge: Forge, release: int) -> dict[str, Any]:
    return {MODEL: replace(forge.channel().models[MODEL], release=release)}


def _of(files: Mapping[str, bytes], start: str, end: str) -> str:
    return next(key for key in files if key.startswith(start) and key.endswith(end))
