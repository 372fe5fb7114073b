"""Where messages travel for real: ZeroMQ sockets, addresses, DNS."""
