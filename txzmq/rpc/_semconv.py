"""OpenTelemetry's semantic conventions for RPC, version 1.45: names, buckets, what is an error.

They are stable since that version. OpenTelemetry's own package of names for Python has those of
1.44, where ``rpc.status_code`` had another name, and has none of them as stable; so they stand
here, and nowhere else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from txzmq.rpc.errors import Code

__all__ = [
    "ATTEMPTS",
    "CLIENT_ADDRESS",
    "CLIENT_ERRORS",
    "CLIENT_SECONDS",
    "ERROR_TYPE",
    "METHOD",
    "METHOD_ORIGINAL",
    "OTHER",
    "PEER_ADDRESS",
    "PEER_PORT",
    "REQUESTS",
    "RESPONSES",
    "SCHEMA_URL",
    "SECONDS_BUCKETS",
    "SERVER_ADDRESS",
    "SERVER_ERRORS",
    "SERVER_PORT",
    "SERVER_SECONDS",
    "STATUS_CODE",
    "SYSTEM",
    "SYSTEM_NAME",
    "Instrument",
]

#: Of the version that everything here is of.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"

# -- attributes ---------------------------------------------------------------------------------

SYSTEM_NAME: Final = "rpc.system.name"
#: Its value: a system that the conventions do not list has a name of its own.
SYSTEM: Final = "txzmq"
METHOD: Final = "rpc.method"
#: The value of METHOD where the server does not have the method, since a peer can send anything.
OTHER: Final = "_OTHER"
METHOD_ORIGINAL: Final = "rpc.method_original"
STATUS_CODE: Final = "rpc.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
PEER_ADDRESS: Final = "network.peer.address"
PEER_PORT: Final = "network.peer.port"

# The conventions have no names for these.

#: On a client, how often a call was sent, where that is not once; on a server, which attempt this
#: is, from the second.
ATTEMPTS: Final = "txzmq.attempts"
#: Items of calls that stream.
REQUESTS: Final = "txzmq.requests"
RESPONSES: Final = "txzmq.responses"

# -- metrics ------------------------------------------------------------------------------------


class Instrument(NamedTuple):
    """A metric: its name, unit and meaning."""

    name: str
    unit: str
    meaning: str


CLIENT_SECONDS: Final = Instrument(
    "rpc.client.call.duration",
    "s",
    "Measures the duration of an outgoing Remote Procedure Call (RPC).",
)
SERVER_SECONDS: Final = Instrument(
    "rpc.server.call.duration",
    "s",
    "Measures the duration of an incoming Remote Procedure Call (RPC).",
)
#: Which buckets the conventions advise.
SECONDS_BUCKETS: Final[tuple[float, ...]] = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

# -- errors -------------------------------------------------------------------------------------

#: Codes that are errors for a client; those of gRPC, whose codes ours are.
CLIENT_ERRORS: Final = frozenset(Code) - {Code.OK}
#: Codes that are errors for a server: the others are answers to what a client has done.
SERVER_ERRORS: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
