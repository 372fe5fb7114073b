"""Makes a gRPC channel's calls: as :class:`Calls`, but for those that stream."""

from __future__ import annotations

from txzmq.rpc._client.call import Call
from txzmq.rpc._client.calls import STREAMED, Calls
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc._client.watched_calls import WatchedCalls
from txzmq.rpc._grpc.requests import GrpcRequests, GrpcRequestsCall
from txzmq.rpc._grpc.response_stream import GrpcStream, StreamCall
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.client import CallSpec, check_request

__all__ = ["GrpcCalls", "WatchedGrpcCalls"]


class GrpcCalls(Calls):
    """Makes calls, which gRPC gets."""

    def _make_with_requests(self, spec: CallSpec) -> Call:
        method, registry = spec.method, self._registry
        check_request(method, spec.request)
        body, response_size = self._check(spec, STREAMED, self._left(spec))
        requests = GrpcRequests(method, spec.request, self._request_size(method))
        head = RequestHead(method.path, None, spec.metadata)
        call = GrpcRequestsCall(requests, registry, spec, head, body, response_size)
        requests.when_failed(call.requests_failed)
        registry.begun(call)
        if spec.parent is not None:
            spec.parent.adopt(call.deferred)
        return call

    def _open(self, spec: CallSpec) -> ReceivedStream:
        method, registry = spec.method, self._registry
        streams = method.kind.request_streaming
        if streams:
            check_request(method, spec.request)
        body, response_size = self._check(
            spec, STREAMED if streams else spec.request, self._left(spec)
        )
        requests = None
        if streams:
            requests = GrpcRequests(method, spec.request, self._request_size(method))
        stream = GrpcStream(registry, spec, response_size, self._window, requests)
        if requests is not None:
            requests.when_failed(stream.cancel)
        own = spec.replace(response_metadata=None, parent=None)
        head = RequestHead(method.path, None, spec.metadata)
        stream.open(StreamCall(requests, registry, own, head, body, response_size))
        return stream


class WatchedGrpcCalls(GrpcCalls, WatchedCalls):
    """The same, and tells an observer when they begin and when they have ended."""
