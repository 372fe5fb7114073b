"""Finds services, and arguments of their server, by names such as ``package.module:Service``."""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from txzmq import _check
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.server import Server

__all__ = ["LoadError", "load_options", "load_services"]


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
    return [service for name in names for service in _services(name)]


def load_options(name: str) -> dict[str, object]:
    """Keyword arguments of :class:`~txzmq.rpc.Server`, such as ``limits`` and ``interceptors``.

    The values are looked at by the server.

    :param name: ``package.module:name`` of a mapping, or of a function without parameters that
        returns one.
    :raises LoadError: if there is no such mapping, or a key of it is no argument of a server.
    """
    found = _resolve(name)
    if callable(found) and not isinstance(found, Mapping):
        found = _result(name, found)
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


def _services(name: str) -> list[ServiceHandler]:
    found = _resolve(name)
    if isinstance(found, type):
        if not hasattr(found, "__txzmq_service__"):
            raise LoadError(f"{name} is a class, and no subclass of a generated <Service>Base")
        # Any: a class of whatever instances.
        found = _result(name, cast("type[Any]", found))
    elif not _is_service(found) and callable(found):
        found = _result(name, found)
        name = f"{name}()"
        if isinstance(found, Sequence) and not isinstance(found, str | bytes):
            return _each(name, cast("Sequence[object]", found))
    return [_service(name, found)]


def _each(name: str, found: Sequence[object]) -> list[ServiceHandler]:
    if not found:
        raise LoadError(f"{name} returned no service")
    return [_service(f"{name}[{index}]", one) for index, one in enumerate(found)]


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
def _result(name: str, function: Callable[..., Any]) -> object:
    """What a class or function of the user's returns, called without arguments."""
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
    except Exception as error:
        raise LoadError(f"{name}: importing it raised {_told(error)}") from error


def _told(error: Exception) -> str:
    """An exception, and the line where it came from."""
    text = "".join(traceback.format_exception_only(error)[-1:]).strip()
    if isinstance(error, SyntaxError):  # it says where itself, and no frame of ours does
        return f"{text} ({error.filename}, line {error.lineno})" if error.filename else text
    where = traceback.extract_tb(error.__traceback__)[-1:]
    return "".join([text, *(f" ({frame.filename}, line {frame.lineno})" for frame in where)])
