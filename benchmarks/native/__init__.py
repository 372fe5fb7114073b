"""Measures txzmq beside gRPC in C++, Go and Node, by the same proto and loads.

``python -m benchmarks.native --help`` says how; ``tools/native-peers`` builds the others. Reading
order: :mod:`benchmarks.native.loads` is what is measured and how it is asked for,
:mod:`benchmarks.native.peers` who does it (``cpp/``, ``go/``, ``node/``, and
:mod:`benchmarks.native.txzmq_`), :mod:`benchmarks.native.measure` in what order, and
:mod:`benchmarks.native.report` what is made of it.
"""
