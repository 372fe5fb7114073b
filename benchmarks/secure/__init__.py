"""What trust costs: txzmq with keys beside none, and beside grpc.aio with mutual TLS."""
