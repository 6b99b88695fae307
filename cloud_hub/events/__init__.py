"""Events out: what happens at the hub that people want to be told, kept in an outbox and delivered to targets.

kinds, schedule, signing, bodies, addresses    pure: what an event is, when it is tried again, how it is signed
packets                                        pure: the packets of MQTT that tell a broker
outbox                                         the tables: recorded with what happened, spread, claimed, settled
targets, sending, mqtt                         targets with their secrets; one request over HTTPS, or to a broker
delivery, watch                                the services; `answers` is what the API asks
"""
