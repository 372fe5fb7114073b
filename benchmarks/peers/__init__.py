"""One module per stack, each with a ``PEER`` as :class:`benchmarks.stacks.Peer` asks for."""
