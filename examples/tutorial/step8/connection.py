"""Connects with the key, and the token if any, that variables of the environment name."""

import os

from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair
from txzmq.rpc import Channel
from txzmq.rpc.authentication import BearerCredentials


def connect(factory: ZmqFactory, endpoint: str) -> Channel:
    keys = CurveKeyPair.load(os.environ["TXZMQ_KEY"])
    server_key = os.environ["TXZMQ_SERVER_KEY"]
    token = os.environ.get("TXZMQ_TOKEN", "")
    return Channel(
        factory,
        endpoint,
        credentials=CurveClientCredentials(keys, server_keys=[server_key]),
        call_credentials=BearerCredentials(lambda: token) if token else None,
    )
