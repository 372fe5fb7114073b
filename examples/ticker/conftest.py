"""Asks for the fixtures of txzmq."""

pytest_plugins = ["txzmq.testing.pytest"]
