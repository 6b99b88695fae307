"""Runs on the device: pulls, verifies, swaps, infers, falls back, samples, reports.

main       the entry; agent: the composition root; cli: the `edge-agent` command
local, in_process  inference in the application's process
host       the machine: folder, durable files, memory, watchdog, service manager
runtimes   LiteRT, tflite-runtime, ONNX Runtime behind one port
serving    the local API, routing, audits
telemetry  windows, samples, the spool
mqtt       the connection to the broker, commands
shadow     a release that is tried beside the one that serves, in a process of its own
update     pulling releases
identity   key, enrolment, calls to the hub
"""

VERSION = "0.2.0.dev0"
# The capabilities that releases and channels may require of this agent (`requires`); its report tells the hub.
CAPABILITIES = (
    "non-finite",
    "routing-budget",
    "routing-remote",
    "routing-when",
    "shadow",
    "sketch-gaps",
    "step:clip",
    "step:concat",
    "step:impute",
    "step:normalise",
    "step:one-hot",
    "step:ordinal",
    "step:scale",
    "step:window",
    "task:anomaly-score",
    "task:custom",
    "task:detection",
    "task:embedding",
    "task:multi-label",
    "task:regression",
    "variable-outputs",
)
