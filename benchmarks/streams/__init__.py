"""Streams beside those of grpc.aio: items per second, and what each costs."""
