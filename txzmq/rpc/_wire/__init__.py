"""The protocol without IO: bytes go in, events and bytes come out.

No sockets, no reactor, no clock; docs/protocol.md is the specification of what is done here.
"""
