"""The client's engine over gRPC: calls of :mod:`txzmq.rpc` by ``grpc.aio``."""
