# On asyncio's loop, for handlers that use libraries of asyncio.
#
#     PYTHONPATH=. twistd --reactor=asyncio -ny examples/application/asyncio.tac

import os

from twisted.application.service import Application

from examples.application.asyncio_greeter import AsyncioGreeterService

application = Application("greeter")
address = os.environ.get("GREETER", "tcp://127.0.0.1:5000")
AsyncioGreeterService(address).setServiceParent(application)
