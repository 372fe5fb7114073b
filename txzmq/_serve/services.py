"""Finds services, and arguments of their server, by names such as ``package.module:Service``."""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from twisted.internet.base import ReactorBase
from twisted.internet.task import react

from txzmq import _check
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.server import Server

__all__ = ["LoadError", "find_services", "load_options", "load_services", "said_by_options"]


class LoadError(Exception):
    """What a name stands for cannot be served; the message begins with the name and says why.

    What a module or function of the user's raised is the cause.
    """


def load_services(names: Iterable[str]) -> list[ServiceHandler]:
    """The services of these names, in their order.

    Modules are looked for in the current folder first, as ``python -m`` does.

    :param names: each is ``package.module:Name``, of a subclass of a generated ``<Service>Base``,
        which is made without arguments; of an instance; or of a function without parameters that
        returns an instance or a sequence of them.
    :raises LoadError: if there is no such module, or no such name in it; if it is no service; if
        its class is abstract, or needs arguments; or if the user's code raises something.
    """
    return find_services(names)()


def find_services(names: Iterable[str]) -> Callable[[], list[ServiceHandler]]:
    """As :func:`load_services` in two steps: modules are imported now, and services are made later.

    For programs that fork between the two.

    :return: a function that makes the services. It raises LoadError if the user's code raises
        something, or returns no service.
    :raises LoadError: for everything else.
    """
    makers = [_maker(name) for name in names]
    return lambda: [service for make in makers for service in make()]


def load_options(name: str) -> dict[str, object]:
    """Keyword arguments of :class:`~txzmq.rpc.Server`, such as ``limits`` and ``interceptors``.

    The values are looked at by the server.

    :param name: ``package.module:name`` of a mapping, or of a function without parameters that
        returns one.
    :raises LoadError: if there is no such mapping, or a key of it is no argument of a server.
    """
    found = _resolve(name)
    if callable(found) and not isinstance(found, Mapping):
        _check_callable(name, found)
        found = _called(name, found)
        if not isinstance(found, Mapping):
            raise LoadError(f"{name}() must return a mapping, not {_check.shown(found)}")
    if not isinstance(found, Mapping):
        what = "a mapping, or a function that returns one"
        raise LoadError(f"{name} must be {what}, not {_check.shown(found)}")
    # The cast is for pyright, which knows a mapping of what as little as we do.
    options = cast("Mapping[object, object]", found)
    known = [
        parameter.name
        for parameter in inspect.signature(Server).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    checked: dict[str, object] = {}
    for key, value in options.items():
        if not isinstance(key, str) or key not in known:
            hint = _check.near(key, known) or f"; there are {', '.join(known)}"
            raise LoadError(f"{name}: {_check.shown(key)} is no argument of a server{hint}")
        checked[key] = value
    return checked


def said_by_options(error: ValueError, keys: str) -> str:
    """What a server's error says, with options of a command in place of a server's arguments.

    :param keys: the options that stand for ``credentials``.
    """
    said = str(error).replace("insecure=True", "--insecure")
    return said.replace("credentials= (docs/guide/security.md shows how)", keys)


def _maker(name: str) -> Callable[[], list[ServiceHandler]]:
    """What makes the services of a name."""
    found = _resolve(name)
    if isinstance(found, type):
        if not hasattr(found, "__txzmq_service__"):
            raise LoadError(f"{name} is a class, and no subclass of a generated <Service>Base")
        # Any: a class of whatever instances.
        cls = cast("type[Any]", found)
        _check_callable(name, cls)
        return lambda: [_service(name, _called(name, cls))]
    if not _is_service(found) and callable(found):
        function = found
        _check_callable(name, function)
        return lambda: _each(f"{name}()", _called(name, function))
    service = _service(name, found)
    return lambda: [service]


def _each(name: str, found: object) -> list[ServiceHandler]:
    """What a function has returned: a service, or several."""
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        return [_service(name, found)]
    if not found:
        raise LoadError(f"{name} returned no service")
    # The cast is for pyright, which knows a sequence of what as little as we do.
    several = cast("Sequence[object]", found)
    return [_service(f"{name}[{index}]", one) for index, one in enumerate(several)]


def _is_service(value: object) -> bool:
    return hasattr(value, "__txzmq_service__") and not isinstance(value, type)


def _service(name: str, value: object) -> ServiceHandler:
    if not _is_service(value):
        hint = ""
        if isinstance(value, type) and hasattr(value, "__txzmq_service__"):
            hint = f"; make an instance, {value.__name__}()"
        what = "an instance of a subclass of a generated <Service>Base"
        raise LoadError(f"{name} must be {what}, not {_check.shown(value)}{hint}")
    return cast("ServiceHandler", value)


# Any: of whatever parameters.
def _check_callable(name: str, function: Callable[..., Any]) -> None:
    """Check that a class or function of the user's can be called without arguments."""
    if inspect.isabstract(function):
        left = ", ".join(sorted(cast("Any", function).__abstractmethods__))
        raise LoadError(f"{name} does not implement {left}")
    if not _check.takes(function, 0):
        raise LoadError(
            f"{name} is called without arguments, and needs {_check.signature_of(function)}: name "
            "a function without parameters that calls it"
        )
    if inspect.iscoroutinefunction(function):
        raise LoadError(f"{name} must be a plain function, not an async def")


def _called(name: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except Exception as error:
        raise LoadError(f"{name}() raised {_told(error)}") from error


def _resolve(name: str) -> object:
    """What a name stands for."""
    module_name, colon, path = name.partition(":")
    parts = module_name.split(".")
    if not colon:
        hint = f"; did you mean {'.'.join(parts[:-1])}:{parts[-1]}?" if len(parts) > 1 else ""
        raise LoadError(f"{name}: it must be package.module:Name{hint}")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise LoadError(f"{name} names a file, not a module; did you mean {dotted}:{path}?")
    if not all(part.isidentifier() for part in [*parts, *path.split(".")]):
        raise LoadError(f"{name}: it must be package.module:Name")
    found: object = _module(name, module_name)
    seen = module_name
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            known = (one for one in dir(found) if not one.startswith("_"))
            near = _check.near(attribute, known)
            raise LoadError(f"{name}: {seen} has no {attribute}{near}") from None
        seen = f"{seen}.{attribute}"
    return found


def _module(name: str, module_name: str) -> ModuleType:
    here = os.getcwd()
    if sys.path[:1] not in ([""], [here]):
        sys.path.insert(0, here)
    try:
        with _reactor_cannot_start():
            return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module_name}.".startswith(f"{missing}."):  # it imports what is not there
            raise LoadError(f"{name}: importing it raised {_told(error)}") from error
        package, _, last = missing.rpartition(".")
        # None: all that can be imported; a module that is no package has nothing.
        places = getattr(sys.modules[package], "__path__", ()) if package else None
        near = _check.near(last, {module.name for module in pkgutil.iter_modules(places)})
        raise LoadError(f"{name}: there is no module {missing}{near}") from None
    except (Exception, SystemExit) as error:
        if _is_of_a_program(error):
            raise LoadError(
                f"{name}: importing it runs the reactor; put react(main) or reactor.run() below "
                'if __name__ == "__main__":'
            ) from error
        raise LoadError(f"{name}: importing it raised {_told(error)}") from error


class _ReactorStarted(RuntimeError):
    """A module runs the reactor where it is imported, and its import would not end."""


@contextmanager
def _reactor_cannot_start() -> Generator[None]:
    """Whoever starts a reactor gets an exception, whichever reactor it is.

    The class is changed, since the module may install a reactor of its own before it runs it.
    """
    # Any: its methods are typed for those who call them.
    base: Any = ReactorBase
    original = base.startRunning
    base.startRunning = _refuse_to_start
    try:
        yield
    finally:
        base.startRunning = original


def _refuse_to_start(reactor: object, installSignalHandlers: bool = True) -> None:
    raise _ReactorStarted("a module that is imported must not run the reactor")


def _is_of_a_program(error: BaseException) -> bool:
    """Whether a module was a program when it was imported: it has run the reactor, or begun to."""
    if isinstance(error, _ReactorStarted):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is react.__code__ for frame, _ in frames)


def _told(error: BaseException) -> str:
    """An exception, and the line where it came from."""
    text = "".join(traceback.format_exception_only(error)[-1:]).strip()
    if isinstance(error, SyntaxError):  # it says where itself, and no frame of ours does
        return f"{text} ({error.filename}, line {error.lineno})" if error.filename else text
    where = traceback.extract_tb(error.__traceback__)[-1:]
    return "".join([text, *(f" ({frame.filename}, line {frame.lineno})" for frame in where)])
