"""What the hub hears of a device, and how it gets there without being lost.

recorder  hears of every request; windows, samples and reports into the spool
windows   counters, histograms and sketches (pure)
samples   which requests are kept (pure), and their bounded store
spool     the outbox that survives power loss
gobackn   which records to send next (pure)
uplink    the MQTT connection
commands  whether a command may be obeyed (pure)
uploader  samples to the hub over HTTPS
budget    bytes per day
"""
