"""ZeroMQ sockets in the Twisted reactor."""
