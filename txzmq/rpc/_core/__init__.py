"""What both sides stand on: deadlines, backoff, running coroutines, telling observers."""
