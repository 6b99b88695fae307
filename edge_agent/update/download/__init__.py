"""Blobs: where they come from, how fast, and how what arrived is resumed.

release   the one owner of a download: all files of a release, fetched and verified
sources   the operator's mirrors in their order, then the hub; folder: a bundle in the place of the hub
fetch     one blob, by range
delta     one blob from a patch and a held one; manifest_patch: a manifest likewise
throttle  deadline, minimum and maximum speed
shares    what each model may take of the device's rate, budget and disk
"""
