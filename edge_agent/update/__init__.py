"""Pulling releases: what is wanted, fetching, verifying, trying, and rolling back.

rules     pure: the update machine of one model, what makes an install wait, how soon a notice is followed, hints
disk      the machines' persisted form, blobs and manifests, loads that ended the agent
download  blobs from mirrors and hub, by range and by patches; shares of rate, budget and disk
worker    the short-lived processes: one look and its steps, or one self-test in a sandbox
messages  what the serving process and a worker say to each other
In the serving process
    updater         looks when it is told or time comes, and judges probations
    offers          moves every model to what a look offers
    activation      serves what is proven, and keeps what can serve serving
    state_reporter  where each model stands: on the disk, then in the reports
    install, bundled  installing from a bundle, and what its look says
"""
