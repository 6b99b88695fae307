"""The contract between hub and device: what two machines may say to each other.

Everything that both ends must compute alike lives here, and nothing here does I/O:

    topics      every MQTT topic, built and parsed
    messages    what travels on MQTT; `telemetry` has the windows in it
    calls       the bodies of the device's HTTP calls (in `messages` as well)
    manifest    the release manifest (a TUF target)
    task        how a release names its task (what it means: `fleet.tasks`)
    channel     the channel document, a fleet's signed desired state (a TUF target)
    resolve     labels, groups and cohort -> the release a device should run
    oip         codec of the Open Inference Protocol v2
    sketch      mergeable summaries of what a model saw, through the fixed `drift_encoder` of its name
    confidence  calibrated confidence and the deferral rule
    selftest    golden vectors and their comparison
    errors      the exception tree of this room

Outside the standard library it imports msgspec and numpy, and nothing else, ever.
"""
