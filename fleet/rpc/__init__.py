"""The Open Inference Protocol over gRPC, `inference.GRPCInferenceService`, on agent and hub alike (extra `[grpc]`).

port       `Inference`, what an agent and a hub implement; `Refusal`, how they refuse
messages   the protocol's messages, made of `inference.proto`
head       what a request costs, looked at before it is decoded
codec      messages to requests and answers of `fleet.protocol.oip`, and back
asking     the other side of the codec: requests to messages, and answers back
client     calls to somebody else's service
reading    waiting for a message
service    the calls, for `grpc.aio`
server     `Server`, which binds a port and serves until it is cancelled
loading    brings server and client in, and grpc with it: nothing of that is imported before it is asked for
"""

from fleet.rpc.port import CallError, Certificate, Inference, Refusal

__all__ = ["CallError", "Certificate", "Inference", "Refusal"]
