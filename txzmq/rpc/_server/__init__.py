"""The server's engine: calls that are served, streams, sockets."""
