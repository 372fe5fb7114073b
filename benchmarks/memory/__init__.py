"""What calls cost in memory, on each side: ``make bench-memory``."""
