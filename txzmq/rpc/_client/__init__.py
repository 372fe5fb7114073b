"""The client's engine: calls, their attempts, streams, connections."""
