"""What a thread does that waits for the reactor's."""
