"""Serving services by their names: what ``twist txzmq`` stands on."""
