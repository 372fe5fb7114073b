"""The Admin service: all pages of a list, and what is said where it does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from txzmq._cli.problems import Problem
from txzmq.rpc.admin import MAX_PAGE
from txzmq.rpc.errors import PermissionDenied, ResourceExhausted, RpcError, Unimplemented

__all__ = ["admin_problem", "all_pages", "explained"]

#: Pages of a list at most, so that a server cannot have us ask for ever.
_MOST_PAGES: Final = 1_000


# Any: the answers of each list.
async def all_pages(ask: Callable[[str], Awaitable[Any]]) -> list[Any]:
    """All pages of a list; one alone of a list without pages.

    :param ask: asks for the page that a token stands for, which is empty for the first one.
    :raises ResourceExhausted: if the server has ever more of them.
    """
    pages: list[Any] = []
    token = ""
    while len(pages) < _MOST_PAGES:
        page = await ask(token)
        pages.append(page)
        last, token = token, getattr(page, "next_page_token", "")
        if not token or token == last:
            return pages
    raise ResourceExhausted(
        f"the server's list has more than {_MOST_PAGES:,} pages of {MAX_PAGE:,}, and is not shown"
    )


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
