"""How many instructions a call or an item of a stream takes: ``make bench-instructions``.

Time needs a quiet machine; a count of instructions needs only the same interpreter, libraries and
architecture, and says of a change of a per cent or two whether it is one. It says nothing of what
waits on memory or on the kernel: ``make bench`` measures time.
"""
