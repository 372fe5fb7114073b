"""The standard services of gRPC: generated from ``third_party/grpc``, in a pool of their own."""
