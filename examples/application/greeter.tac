# A daemon: its process id is in twistd.pid and its log in twistd.log, and SIGTERM drains it.
#
#     PYTHONPATH=. twistd -y examples/application/greeter.tac
#     kill $(cat twistd.pid)

import os

from twisted.application.service import Application

from examples.application.greeter import GreeterService

application = Application("greeter")
address = os.environ.get("GREETER", "tcp://127.0.0.1:5000")
GreeterService(address).setServiceParent(application)
