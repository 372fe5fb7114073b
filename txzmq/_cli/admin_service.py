"""What is said where the Admin service does not answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from txzmq._cli.problems import Problem
from txzmq.rpc.errors import PermissionDenied, RpcError, Unimplemented

__all__ = ["admin_problem", "explained"]


def admin_problem(error: RpcError) -> Problem | None:
    """What to say of an error of the service; None if it is any call's."""
    if isinstance(error, Unimplemented):
        return Problem(
            "the server has no Admin service",
            "give it Admin() of txzmq.rpc.admin",
            code=error.code,
        )
    if isinstance(error, PermissionDenied):
        return Problem(
            f"the server does not answer it: {error}",
            "ask on the server's own machine, or have a permission for /txzmq.rpc.v1.Admin/*",
            code=error.code,
        )
    return None


@contextmanager
def explained() -> Generator[None]:
    """Raises a :class:`Problem` in the place of such an error."""
    try:
        yield
    except RpcError as error:
        problem = admin_problem(error)
        if problem is None:
            raise
        raise problem from None
