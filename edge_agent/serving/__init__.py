"""Answering requests on the device.

app      the local HTTP API (Open Inference Protocol v2)
engine   one request: local model, decision, cloud, record
router   who answers (pure)            breaker  the circuit breaker (pure)
slots    the models in service, swapped without failing a request
loading  a thread for each load, so that one which hangs holds up no other
endpoint the cloud with its places, queue and breakers
cloud    calls to the hub              answers  whether what comes from there is an answer
audit    second opinions, off the request path
policy   the channel's policies in force    outcomes  what became of a request, for the records
metrics  Prometheus text
"""
