"""Thousands of simulated devices on real connections: `fleet simulate`, a hub's load test and a rollout's rehearsal.

profiles    pure: how a device behaves; which device is of which kind
traffic     pure: what a device would have measured, as telemetry windows
hostile     pure: messages that no device should send
outbox      pure: a device's numbered records until the hub's receipt
device      pure: one device: what it hears and when in, what it sends and when it looks out
calls       a device's calls to the hub over HTTP
connection  a device's MQTT connection, many of them on one event loop
view        the signed channel, fetched and verified once for all devices of a process
simulated   a device with its connection
worker      the process that runs its share of the devices, each enrolled in a folder of its own
work        what the processes say to each other
errors      what can go wrong
run         the processes, what they say meanwhile, and the report

Real: keys, certificates, TLS, MQTT, the signed metadata, the update rules of `edge_agent.update.rules`, numbered
records and receipts. Modelled: what a download and an inference cost and give, by the device's profile. The devices of
one process share one verified view of the repository, so the hub serves fewer files than to as many real devices.
"""
