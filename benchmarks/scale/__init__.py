"""How the cost of a call grows with what there is of everything: ``make bench-scale``.

Reading order: :mod:`benchmarks.scale.axes` is what is varied, :mod:`benchmarks.scale.child` who
calls whom, :mod:`benchmarks.scale.measure` in what order, :mod:`benchmarks.scale.report` and
:mod:`benchmarks.scale.plots` what is made of it.
"""
