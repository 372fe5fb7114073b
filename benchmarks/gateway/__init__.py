"""Gateways beside servers of the same protocols that do the work themselves.

``served`` is what answers, each in a process of its own; ``clients`` calls it.
"""
