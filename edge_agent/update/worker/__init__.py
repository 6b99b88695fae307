"""The short-lived processes that look, fetch, verify and try, and the serving process's side of them.

In the process
    process          its start: one look and its steps, or one self-test
    resolve_targets  refresh, channel, what is wanted here, manifests
    tuf_client       the hardened TUF updater; tuf_command: behind the public conformance suite's command line
    evidence         what shows a restored hub that it has signed newer metadata
    confining        what a self-test gives up before it parses a model: sandbox (Landlock, seccomp), syscall_filter
In the serving process
    client, pool     start, ask, end; one worker for each model that has something to do
What the two say to each other is in `update/messages.py`.
"""
