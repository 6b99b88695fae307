"""What devices report, into the database; receipts, commands and notices back to them.

reading   bytes to checked values: every field of every message is bounded
records   one checked record into rows
aside     what could not be taken, with its reason
clones    whether two machines use one device's identity
inbox     what waits to be taken: of each device its allowance, one after the other in turn
slowing   devices that send more than that, by name
ingestor  batches of messages: order, one transaction, receipts
commands  signed commands to devices
service   the loop between the broker and the database
"""

from __future__ import annotations

from cloud_hub.ingest.service import services

__all__ = ["services"]
