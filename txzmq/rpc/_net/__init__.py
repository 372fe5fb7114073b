"""The network of ZeroMQ sockets, addresses and the DNS."""
