"""Events out: what happens at the hub that people want to be told, kept in an outbox and delivered to targets.

kinds, schedule, signing, bodies, addresses    pure: what an event is, when it is tried again, how it is signed
outbox                                         the tables: recorded with what happened, spread, claimed, settled
targets, sending                               targets with their secrets; one request over HTTPS
delivery, watch                                the services; `answers` is what the API asks
"""
