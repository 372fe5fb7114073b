"""Measures txzmq beside other ways to call from one Python process to another.

``python -m benchmarks --help`` says how. Reading order: :mod:`benchmarks.workload` is what is
measured, :mod:`benchmarks.peers` who does it, :mod:`benchmarks.run` in what order,
:mod:`benchmarks.figures` how the figures come from it.
"""
