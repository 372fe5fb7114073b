"""What clients and servers share: deadlines, backoff, coroutines, interceptors, notifications."""
