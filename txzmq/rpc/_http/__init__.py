"""What :mod:`txzmq.rpc.http_gateway` is made of."""
