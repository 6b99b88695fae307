"""Pulling releases: what is wanted, fetching, verifying, trying, and rolling back.

Pure
    machine         the update machine of one model
    holds           what makes a new install wait: window and budget
    hurry           how soon a notice may end what is under way
    advice          what somebody must do about metadata that does not come or cannot be used
    lines           what parent and child say to each other
    syscall_filter  the system calls that the self-test's child may still make
On the disk
    state           the machines' persisted form, `state.json`
    store           content-addressed blobs and verified manifests
In the child
    child           the short-lived process: one look and its steps, or one self-test
    look            refresh, channel, resolve, manifests
    tuf_client      the hardened TUF updater
    tuf_command     the same updater behind the public conformance suite's command line
    sources, fetch  blobs from mirrors and hub, by range
    delta           blobs from patches
    pace            deadline, minimum and maximum speed of a download
    folder          a bundle in the place of the hub
    sandbox         what the self-test gives up before it parses a model (Landlock, seccomp)
In the serving process
    driver          looks when it is told or time comes, and judges probations
    following       moves every model to what a look offers
    shares, crew    what each model that is fetched may take of the device, and the children it is lent
    service         serves what is proven, and keeps what can serve serving
    suspects        what ended the agent while it was being loaded, and is left alone
    ledger          where each model stands: on the disk, then in the reports
    children        the parent's side of the children
    install, bundled  installing from a bundle, and what its look says
"""
