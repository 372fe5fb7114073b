"""Checks of what users give: a wrong value is told at once, with the name of its parameter.

Each raises TypeError for a value of a wrong type and ValueError for a wrong value, in one form:
``running must be an integer of 0 or more, not -1``. They are for constructors, and for what is done
rarely. What each call is made with is checked where it is looked at anyway, and only the message
comes from here.
"""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, cast

__all__ = [
    "boolean",
    "choice",
    "clock",
    "function",
    "functions",
    "instance",
    "integer",
    "kind",
    "message_class",
    "near",
    "number",
    "shown",
    "text",
    "word",
    "wrong_type",
]

#: Values that are shown as they are; of any other, which may be long or secret, the type is.
_PLAIN = (str, bytes, int, float, type(None))
_MOST_SHOWN = 60
#: OAuth's scope tokens (RFC 6749, 3.3) without / and *, by which tables of permissions tell paths
#: from words. The generator has the same.
_WORD = re.compile(r"[!#-)+-.0-\[\]-~]+")


def shown(value: object) -> str:
    """A value as an error says it: plain values themselves, of others the type only."""
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, _PLAIN):
        text = repr(value)
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    return f"an object of type {type(value).__qualname__}"


def kind(value: object) -> str:
    """The type of a value, which may be secret: ``list``, or ``the class list`` itself."""
    return f"the class {value.__qualname__}" if isinstance(value, type) else type(value).__name__


def near(word: object, known: Iterable[str]) -> str:
    """``; did you mean NAME?`` if another of the known names is like *word*; or else nothing."""
    if not isinstance(word, str):
        return ""
    by_folded = {_folded(name): name for name in known if name != word}
    found = difflib.get_close_matches(_folded(word), by_folded, n=1, cutoff=0.75)
    return f"; did you mean {by_folded[found[0]]}?" if found else ""


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def wrong_type(name: str, value: object, expected: str, hint: str = "") -> TypeError:
    """The error for a value of a wrong type."""
    return TypeError(f"{name} must be {expected}, not {shown(value)}{hint}")


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} must be {expected}, not {shown(value)}")


def integer(name: str, value: object, least: int = 0, most: int | None = None) -> None:
    """Check an integer.

    :param most: the largest that is allowed; None for no such limit.
    """
    expected = f"an integer of {least} or more"
    if most is not None:
        expected = f"an integer from {least} to {most}"
    try:
        if isinstance(value, bool):
            raise TypeError
        checked = operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise wrong_type(name, value, expected) from None
    if checked < least or (most is not None and checked > most):
        raise _wrong(name, value, expected)


def number(
    name: str,
    value: object,
    least: float = 0.0,
    most: float = math.inf,
    *,
    above: bool = False,
    endless: str = "",
) -> None:
    """Check a number; NaN is none, nor is infinity.

    :param above: whether *least* itself is too little.
    :param endless: what to use for no limit, where somebody might try infinity.
    """
    expected = f"a number above {least:g}" if above else f"a number of {least:g} or more"
    if most != math.inf:
        expected += f", at most {most:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_type(name, value, expected)
    try:
        checked = float(value)
    except OverflowError:
        raise _wrong(name, value, expected) from None
    if checked == math.inf and endless:
        raise ValueError(f"{name} must be {expected}; for no limit it is {endless}")
    fits = least < checked if above else least <= checked
    if not (fits and checked <= most and checked != math.inf):  # which NaN is not
        raise _wrong(name, value, expected)


def clock(name: str, value: object) -> None:
    """Check a clock, by what is used of it."""
    used = (getattr(value, method, None) for method in ("seconds", "callLater"))
    if isinstance(value, type) or not all(map(callable, used)):
        raise wrong_type(name, value, "a clock: a reactor, or twisted.internet.task.Clock()")


def boolean(name: str, value: object) -> None:
    """Check a bool; other values are no truth that anybody meant."""
    if not isinstance(value, bool):
        raise wrong_type(name, value, "True or False")


def text(name: str, value: object, what: str = "str", *, empty: bool = False) -> None:
    """Check a str.

    :param what: what it is to be, in words.
    :param empty: whether it may be empty.
    """
    if not isinstance(value, str):
        raise wrong_type(name, value, what)
    if not value and not empty:
        raise ValueError(f"{name} must be {what}, and is empty")


def word(name: str, value: str) -> None:
    """Check a word that methods may require of their callers."""
    if not _WORD.fullmatch(value):
        raise ValueError(
            f"{name}: {shown(value)} is no word that a method may require, such as orders.write: "
            "printable ASCII without space, quote, \\, / and *"
        )


def instance(
    name: str, value: object, types: type | tuple[type, ...], what: str, hint: str = ""
) -> None:
    """Check that a value has a type.

    :param what: what it is to be, in words: ``a ServerLimits``.
    :param hint: what else to say, behind the value.
    """
    if not isinstance(value, types):
        if isinstance(value, type) and issubclass(value, types):
            hint = f"; pass an instance, {value.__name__}(...)"
        raise wrong_type(name, value, what, hint)


def message_class(name: str, value: object) -> None:
    """Check that a value is a class of protobuf messages."""
    if not isinstance(value, type) or not hasattr(value, "SerializeToString"):
        raise wrong_type(name, value, "a class of messages")


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Check that a value is one of a few words."""
    if value not in allowed:
        one = f"one of {', '.join(map(repr, allowed))}"
        raise ValueError(f"{name} must be {one}, not {shown(value)}{near(value, allowed)}")


def function(name: str, value: object, parameters: Sequence[str], *, awaited: bool = True) -> None:
    """Check that a value can be called with so many arguments by position.

    :param parameters: what they are, for the message.
    :param awaited: whether what it returns is awaited; if not, an ``async def`` would never run.
    """
    expected = f"a function of ({', '.join(parameters)})"
    if isinstance(value, type) or not callable(value):
        raise wrong_type(name, value, expected)
    if not takes(value, len(parameters)):
        raise TypeError(f"{name} must be {expected}, and takes {signature_of(value)}")
    if not awaited and inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be {expected}, not an async def, which nobody would await")


def functions(name: str, value: object, parameters: Sequence[str]) -> None:
    """Check that a value is a sequence of functions, each of so many arguments."""
    expected = f"a sequence of functions of ({', '.join(parameters)})"
    if callable(value):
        raise wrong_type(name, value, expected, ": put it in a list")
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise wrong_type(name, value, expected)
    # The cast is for pyright: a sequence of what?
    for index, item in enumerate(cast("Sequence[object]", value)):
        function(f"{name}[{index}]", item, parameters)


# Any: of whatever parameters.
def takes(value: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments by position, as far as is known."""
    try:
        inspect.signature(value).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # it does not tell: a function of C
        return True
    return True


def signature_of(value: Callable[..., Any]) -> str:
    """The parameters of a function, for a message: ``(request, *, context)``."""
    signature, empty = inspect.signature(value), inspect.Parameter.empty
    names = [
        parameter.replace(annotation=empty, default=empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=names, return_annotation=empty))
