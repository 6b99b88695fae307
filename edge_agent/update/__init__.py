"""Pulling releases: what is wanted, fetching, verifying, trying, and rolling back.

machine     pure: the update machine of one model
state       its persisted form, `state.json`
store       content-addressed blobs and verified manifests
pace        deadline, minimum and maximum speed of a download
tuf_client  the hardened TUF updater
fetch       in the child: blobs by range
look        in the child: refresh, channel, resolve, manifests
lines       what parent and child say to each other
child       the short-lived child process that runs both
sandbox     what the self-test's child gives up before it parses a model (Landlock, seccomp)
syscall_filter  pure: the system calls that it may still make
children    the parent's side of it, and the self-test's child
driver      in the serving process: runs the machines, serves whatever happens
"""
