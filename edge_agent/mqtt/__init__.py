"""The connection to the broker: records up until the hub's receipts, news of the channel and commands down.

uplink        the connection on the event loop; link: who connects where; connection: how it stands
gobackn       which records to send next (pure); reconnecting: when to connect again (pure)
troubles      why there is no connection, in words that say what to do (pure)
command_verification  whether a command may be obeyed (pure)
command_handler       what a verified command makes the device do
"""
