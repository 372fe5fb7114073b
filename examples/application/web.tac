# A service, and a web site beside it whose pages call the service. They stop in the reverse order:
# the site, its channel, and last the server.
#
#     PYTHONPATH=. twistd -ny examples/application/web.tac

import os

from twisted.application import strports
from twisted.application.service import Application
from twisted.web import server

from examples.application.greeter import GreeterService
from examples.application.web import Site
from txzmq.rpc.application import ChannelService, OrderedMultiService

address = os.environ.get("GREETER", "tcp://127.0.0.1:5000")
http = os.environ.get("HTTP", "tcp:8080:interface=127.0.0.1")

channel = ChannelService(address)
site = server.Site(Site(channel).app.resource())

application = Application("web")
services = OrderedMultiService()
for each in (GreeterService(address), channel, strports.service(http, site)):
    each.setServiceParent(services)
services.setServiceParent(application)
