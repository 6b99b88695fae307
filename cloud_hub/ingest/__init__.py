"""Brings devices' reports into the database, and receipts, commands and notices back to them.

reading   bytes to checked values: every field of every message is bounded
batch     one transaction's messages, in memory: which are taken, and how far each spool is then
records   checked records into rows, many by one statement
evidence  what windows say about rollouts
aside     what could not be taken, with its reason
clones    whether two machines use one device's identity
shards    which devices this hub hears, where several hubs share the ingest
inbox     what waits to be taken: of each device its allowance, one after the other in turn
slowing   devices that send more than that, by name
ingestor  batches of messages: one transaction, receipts
commands  signed commands to devices
summing   many windows as one row of an hour or a day
compacting  old telemetry into such rows, and away
service   the loop between the broker and the database
"""

from __future__ import annotations

from cloud_hub.ingest.service import services

__all__ = ["services"]
