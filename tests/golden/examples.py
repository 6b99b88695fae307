"""One value of everything that goes over the wire or is signed, with every field filled.

A field that a later version adds keeps its default here; the golden files of released versions stay.
"""

from __future__ import annotations

from msgspec import Raw, Struct
from msgspec.structs import replace

from fleet.protocol import channel as c
from fleet.protocol import manifest as m
from fleet.protocol import manifest_detail as d
from fleet.protocol import messages as w
from fleet.protocol.calls import NonceRequest
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.selftest import Vector
from fleet.protocol.shadow import Shadow
from fleet.protocol.task import TaskSpec

ARRAY = w.Array(name="y", datatype="FP32", shape=(1, 2), data=bytes(range(8)))
SKETCH = w.SketchData(sketch_id="5" * 64, count=2, sums=bytes(16))
PAIRS = w.PairCounts(rollout="r1", attempt=1, old=1, new=2, both=90, only_old=4, only_new=3, neither=2)
MQTT = w.MqttEndpoint(host="hub.example", port=8883, tls=True)
WINDOW = w.Window(
    model="digits",
    release=2,
    variant="litert-int8",
    auditor=1,
    started_at=1.5,
    ended_at=61.5,
    counters={"requests": 100, "edge": 90, "cloud": 10},
    latency_us=(0, 1, 99),
    confidence=(0,) * 19 + (100,),
    classes=(60, 40),
    pairs=PAIRS,
    sketch=SKETCH,
)
HELD = w.Held(
    roots=(b"root 1", b"root 2"),
    timestamp=b"timestamp",
    snapshot=b"snapshot",
    targets=b"targets",
    models=b"models",
    channels=b"channels",
    documents={"channels/stable.json": b"{}", "models/digits/floor.json": b"{}"},
    command=b"command",
)
SAMPLE = w.Sample(
    id="01J",
    model="digits",
    release=2,
    variant="litert-int8",
    at=2.5,
    reason="disagreeing",
    inputs=(ARRAY,),
    outputs=(ARRAY,),
    confidence=0.5,
    prediction=3,
    cloud_prediction=8,
)
REPORT = w.ModelReport(
    model="digits",
    state="rolled_back",
    target=3,
    active=2,
    active_variant="litert-int8",
    previous=1,
    rollout="r1",
    attempt=1,
    channel_version=12,
    progress=1.0,
    reason="selftest-failed",
    detail="output 'y' is off by 0.5",
    hint="publish a new release",
)
AGENT = w.AgentReport(
    agent="0.1.0",
    channel="stable",
    capabilities=("litert",),
    hardware={"arch": "x86_64"},
    runtimes={"ai-edge-litert": "2.3"},
    channel_version=12,
    tuf={"root": 1},
    tuf_expires={"timestamp": 99.0},
    disk_free=5,
    bytes_down=6,
    bytes_up=7,
)
BLOBS = [m.Blob(sha256=digit * 64, size=size) for digit, size in (("1", 10), ("2", 20), ("3", 30), ("4", 40))]
VERDICT = m.Verdict(
    metric="accuracy",
    value=0.96,
    interval=(0.93, 0.98),
    reference=0.97,
    drop_points=1.0,
    agreement=0.98,
    worst_class_drop=0.03,
    samples=200,
    size_bytes=10,
    latency_us_p50=50.0,
    latency_us_p95=60.0,
    latency_ratio=0.7,
    notes=("one thread",),
)
POINT = m.DeferralPoint(threshold=0.8, cloud_share=0.1, edge_accuracy=0.96, combined_accuracy=0.98)
MANIFEST = m.Manifest(
    requires=("litert",),
    inputs=(m.Tensor(name="x", datatype="FP32", shape=(-1, 64)),),
    outputs=(m.Tensor(name="y", datatype="FP32", shape=(-1, 10)),),
    labels=("0", "1"),
    variants=(
        m.Variant(
            name="litert-int8",
            runtime="litert",
            precision="int8",
            placement="edge",
            blob=BLOBS[0],
            verdict=VERDICT,
            deferral=m.Deferral(temperature=1.3, threshold=0.8, target="error<=2%", curve=(POINT,)),
            runtimes=("ai-edge-litert",),
        ),
    ),
    selftest=m.SelfTest(blob=BLOBS[1], vectors=8, tolerance={"litert-int8": 0.05}, min_agreement=0.9),
    sketch=m.SketchRef(sketch_id="5" * 64, encoder=BLOBS[2], reference=BLOBS[3], margin=0.01),
    gate=m.Gate(max_drop_points=2.0, min_metric=0.9, min_agreement=0.9, max_class_drop=0.1, max_latency_ratio=1.5),
    lineage=m.Lineage(
        snapshot="s1", recipe="digits", parents=("2",), tools={"torch": "2.13.0"}, seed=7, extra={"a": 1}
    ),
)
ROLLOUT = c.RolloutRef(id="r1", attempt=1, release=2, from_release=1, share_ppm=340_000, salt="0f" * 16, groups=("g1",))
ENTRY = c.ModelEntry(
    release=1,
    rules=(c.Rule(groups=("g2",), release=1),),
    rollout=ROLLOUT,
    routing=c.Routing(threshold=0.7),
    audit=c.Audit(auditor=1, share_ppm=50_000),
    sampling=c.Sampling(enabled=True),
)
CHANNEL = c.Channel(channel="stable", version=12, requires=("litert",), models={"digits": ENTRY})
CHANNEL_ROUTING = c.with_requirements(
    c.Channel(
        channel="stable",
        version=13,
        models={
            "digits": c.ModelEntry(
                release=1,
                routing=c.Routing(
                    when="speculative",
                    calls_per_s=2.5,
                    calls_bytes_per_day=1 << 20,
                    remote=c.Remote(
                        url="https://kserve.example:8080",
                        model="digits-large",
                        version="3",
                        credential="kserve",
                        binary=False,
                    ),
                ),
            )
        },
    )
)

JSON: dict[str, Struct] = {
    "notify": w.Notify(channel="stable", version=12, spread_s=30),
    "signed": w.Signed(key_id="ab" * 32, payload=b"{}", signature=bytes(64)),
    "command": w.Command(
        id="c1", device="d1", counter=4, expires_at=100.0, kind="set-log-level", args={"level": "debug"}
    ),
    "command-keys": w.CommandKeys(keys={"ab" * 32: "cd" * 32}),
    "receipt": w.Receipt(spool="s1", committed=41),
    "status": w.Status(state="online", session="s1", at=1.0, agent="0.1.0"),
    "status-instance": w.Status(state="online", session="s1", at=1.0, agent="0.2.0", instance="i1"),
    "status-vitals": w.Status(
        state="online",
        session="s1",
        at=1.0,
        agent="0.2.0",
        instance="i1",
        vitals=w.Vitals(cpu=0.25, memory=1 << 30, memory_free=1 << 29, disk=1 << 36, disk_free=1 << 35, celsius=51.5),
    ),
    "trust-bundle": w.TrustBundle(root=b"root", ca=b"ca"),
    "enroll-request": w.EnrollRequest(
        token="t1", secret="s", csr="PEM", name="d1", agent="0.1.0", hardware={"arch": "arm"}
    ),
    "enroll-response": w.EnrollResponse(device_id="d1", certificate="PEM", ca="PEM", channel="stable", mqtt=MQTT),
    "nonce-request": NonceRequest(device_id="d1"),
    "nonce-response": w.NonceResponse(nonce="n", expires_in_s=60),
    "token-request": w.TokenRequest(device_id="d1", nonce="n", signature=b"sig"),
    "token-response": w.TokenResponse(token="t", expires_in_s=3600),
    "renew-request": w.RenewRequest(device_id="d1", nonce="n", csr="PEM", signature=b"sig"),
    "renew-response": w.RenewResponse(certificate="PEM", expires_at=4.5),
    "device-me-in-use-twice": w.DeviceMe(device_id="d1", channel="stable", in_use_twice=True),
    "device-me": w.DeviceMe(device_id="d1", channel="stable", groups=("g1",), pins={"digits": 2}, mqtt=MQTT),
    "sample-receipt": w.SampleReceipt(committed=("01J",)),
    "held-answer": w.HeldAnswer(lifted=True),
    "manifest": MANIFEST,
    "manifest-detail": d.without_detail(MANIFEST, m.Blob(sha256="6" * 64, size=50)),
    "release-detail": d.detail_of(MANIFEST),
    "release-detail-target": d.detail_of(MANIFEST, "at most 1 % error"),
    "manifest-bound": replace(
        MANIFEST,
        gate=m.Gate(min_metric=0.9, judged_by="bound"),
        variants=(replace(MANIFEST.variants[0], verdict=replace(VERDICT, drop_bound=1.5)),),
    ),
    "manifest-task": replace(
        MANIFEST,
        requires=("task:detection",),
        task=TaskSpec(
            name="detection",
            threshold=0.4,
            layout="grid",
            box="cxcywh",
            iou=0.6,
            agree_at=0.7,
            logits=True,
            confidence="sure",
            agreement="equal",
            tolerance=0.5,
            low=0.0,
            high=9.0,
        ),
    ),
    "floor": m.Floor(min_release=2, withdrawn=(3,)),
    "channel": CHANNEL,
    "channel-routing": CHANNEL_ROUTING,
    "channel-shadow": c.Channel(
        channel="stable",
        version=14,
        models={
            "digits": c.ModelEntry(release=1, rollout=replace(ROLLOUT, share_ppm=0, shadow=Shadow(cpu_share=0.02)))
        },
    ),
}


def envelope(kind: str, body: Struct) -> w.Envelope:
    """An envelope around a body."""
    return w.Envelope(
        device="d1",
        spool="s1",
        seq=7,
        base=5,
        at=3.5,
        kind=kind,  # type: ignore[arg-type]
        body=Raw(encode_msgpack(body)),
    )


BODIES: dict[str, Struct] = {
    "model": REPORT,
    "agent": AGENT,
    "result": w.CommandResult(id="c1", ok=True, detail="done", data={"level": "debug"}),
    "window": WINDOW,
}
MSGPACK: dict[str, Struct] = {
    **{f"envelope-{kind}": envelope(kind, body) for kind, body in BODIES.items()},
    **{f"body-{kind}": body for kind, body in BODIES.items()},
    "sample-batch": w.SampleBatch(samples=(SAMPLE,)),
    "sketch": SKETCH,
    "benchmark": w.Benchmark(
        model="digits",
        release=2,
        variant="litert-int8",
        runtime="ai-edge-litert",
        runtime_version="2.1",
        agent="1",
        rounds=200,
        p50_us=20.5,
        p95_us=31.5,
        load_us=900.0,
        memory_bytes=65536,
        process_bytes=1 << 25,
    ),
    "vector": Vector(inputs=(ARRAY,), outputs={"litert-int8": (ARRAY,)}),
    "encoder": Encoder(
        tensor="x", inputs=2, dims=1, features=4, seed=0, bandwidth=1.0, mean=bytes(8), projection=bytes(8)
    ),
}
MSGPACK |= {  # what came after 0.1
    "held": HELD,
    "body-model-untried": w.ModelReport(model="digits", state="committed", active=2, untried=True),
    "body-window-values": w.Window(
        model="tide",
        release=2,
        variant="litert-int8",
        auditor=1,
        started_at=1.5,
        ended_at=61.5,
        counters={"requests": 4, "edge": 4},
        values=(w.QuantileData(low=-1.5, high=9.0, means=(-1.5, 2.25, 9.0), weights=(1, 2, 1)),),
    ),
    "body-window-shadow": w.Window(
        model="digits",
        release=1,
        variant="litert-int8",
        auditor=None,
        started_at=1.5,
        ended_at=61.5,
        counters={"requests": 40, "edge": 40},
        shadow=w.ShadowCounts(
            rollout="r1",
            attempt=1,
            old=1,
            new=2,
            agree=2,
            differ=1,
            repeats=3,
            keys=bytes(range(24)),
            non_finite=1,
            failed=1,
            crashed=1,
            dropped=30,
            old_us=900,
            new_us=1000,
            reason="crash-loop",
        ),
    ),
    "body-window-inputs": w.Window(
        model="digits",
        release=2,
        variant="litert-int8",
        auditor=None,
        started_at=1.5,
        ended_at=61.5,
        counters={"requests": 10, "edge": 9, "failed": 1, "refused": 1},
        sketch=w.SketchData(sketch_id="5" * 64, count=9, sums=bytes(16)),
        refusals={"value": 1},
        outlying=2,
        inputs=(
            w.InputSummary(name="x", rows=9, nan=1, infinite=2, refused={"0": 1}, figures=bytes(32)),
            w.InputSummary(name="note", rows=9, figures=bytes(32)),
        ),
    ),
    "body-window-refusals": w.Window(
        model="digits",
        release=2,
        variant="litert-int8",
        auditor=None,
        started_at=1.5,
        ended_at=61.5,
        counters={"requests": 9, "edge": 4, "failed": 5, "refused": 5, "newly_refused": 3, "local_failed": 1},
        refusals={"name": 3, "body": 2},
        rollout="r1",
        attempt=2,
    ),
}
