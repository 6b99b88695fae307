"""The part of updates that stays on the disk.

state      the machines' persisted form, `state.json`
store      content-addressed blobs and verified manifests
crash_log  what ended the agent while it was being loaded, and is left alone
"""
