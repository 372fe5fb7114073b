"""What calls and idle streams cost in memory, on each side: ``make bench-memory``."""
