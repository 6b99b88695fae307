"""Counts and draws what the hub shall know of a device, and keeps it until the hub has it.

recorder       hears of every request; windows, samples and reports into the spool
windows        counters, histograms and sketches (pure); values and shadowed: what they count of answers
sampler        which requests are kept (pure); wanted: those that the hub asks for; samples: their bounded store
uploader       samples to the hub over HTTPS
spool          the outbox that survives power loss, in the one file that `database` keeps
budget         bytes per day
local_records, local_draws  what applications with in-process inference tell
benchmarks     when a release is measured
recent_log     the latest lines of the log, for an operator who asks
"""
