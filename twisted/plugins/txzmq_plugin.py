"""``twist txzmq`` and ``twistd txzmq``; what they do is in ``txzmq/_serve/twist.py``."""

# Twisted reads this module to list its plugins, whoever runs: it must not import txzmq.
from twisted.application.service import ServiceMaker

txzmq = ServiceMaker(  # type: ignore[no-untyped-call]  # Twisted's
    "txzmq", "txzmq._serve.twist", "Serve services of txzmq.", "txzmq"
)
