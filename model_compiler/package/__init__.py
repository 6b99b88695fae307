"""From judged variants to a release directory.

assembling        manifest and blobs
vectors           golden self-test vectors
drift_reference   the drift encoder, its reference and margin; what the inputs were
preflight         each variant through the agent's own self-test
delta             patches between blobs
update_cost       what an update costs a device
pack              the release directory, written all or nothing
"""
