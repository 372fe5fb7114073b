"""How one ``_txzmq.py`` refers to the message types of its methods."""

from __future__ import annotations

from collections.abc import Iterator

from txzmq_codegen.layout import Layout, import_statement
from txzmq_codegen.model import File, Message, Module
from txzmq_codegen.names import is_plain

__all__ = ["References"]


class References:
    """The imports of a module, and the expressions by which it names the messages."""

    def __init__(self, file: File, layout: Layout) -> None:
        self._file = file
        self._layout = layout
        messages = [
            message
            for service in file.services
            for method in service.methods
            for message in (method.request, method.response)
        ]
        modules = sorted({message.module for message in messages})
        self._modules = dict(zip(modules, self._module_aliases(modules), strict=True))
        odd = sorted({message for message in messages if not all(map(is_plain, message.path))})
        self._odd = {message: f"_Message{number}" for number, message in enumerate(odd)}
        # By their full names, which are quicker to hash.
        self._names = {message.full_name: self._name(message) for message in set(messages)}

    def _module_aliases(self, modules: list[Module]) -> Iterator[str]:
        taken: set[str] = set()
        for module in modules:
            near = module.ours and module.parts[:-1] == self._file.module.parts[:-1]
            # A folder's leading underscore would make two, which Python mangles inside classes.
            alias = "_" + "_".join(module.parts[-1:] if near else module.parts).lstrip("_")
            alias = "".join(c if c.isalnum() else "_" for c in alias)
            while alias in taken:
                alias += "_"
            taken.add(alias)
            yield alias

    def imports(self) -> Iterator[str]:
        """The import statements, our own modules last."""
        for ours in (False, True):
            statements = [
                import_statement(
                    self._layout.base(module, self._file.module), module.parts[-1], alias
                )
                for module, alias in self._modules.items()
                if module.ours is ours
            ]
            if statements:
                yield ""
                # Those of other packages have been imported before, or fail as they do elsewhere.
                if ours:
                    yield "with _method.importing(__name__):"
                yield from ((f"    {one}" if ours else one) for one in sorted(statements))

    def aliases(self) -> Iterator[str]:
        """Statements that give a usable name to messages that have none."""
        if not self._odd:
            return
        yield from ("", "# Messages whose names cannot be written inside a class.")
        yield "if _typing.TYPE_CHECKING:"
        for message, alias in self._odd.items():
            path = ".".join(map(_stub_name, message.path))
            yield f"    {alias}: _typing.TypeAlias = {self._modules[message.module]}.{path}"
        yield "else:"
        for message, alias in self._odd.items():
            value = self._modules[message.module]
            for part in message.path:
                value = f'getattr({value}, "{part}")'
            yield f"    {alias} = {value}"

    def __getitem__(self, message: Message) -> str:
        """The expression that is *message*'s type."""
        return self._names[message.full_name]

    def _name(self, message: Message) -> str:
        if message in self._odd:
            return self._odd[message]
        return ".".join((self._modules[message.module], *message.path))


def _stub_name(part: str) -> str:
    """How mypy-protobuf calls a message in its stubs: keywords get a prefix."""
    return part if is_plain(part) or part.startswith("__") else f"_r_{part}"
