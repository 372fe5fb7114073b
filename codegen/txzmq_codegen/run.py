"""One run of the command line: from protos to the texts of all files, and to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from txzmq_codegen.casts import cast_problems, is_genuine
from txzmq_codegen.config import Config
from txzmq_codegen.forbidden import forbidden_names
from txzmq_codegen.generate import services
from txzmq_codegen.imports import imported, missing_modules
from txzmq_codegen.layout import Imports, Layout, collisions
from txzmq_codegen.messages import moved_messages, strangers, unnameable
from txzmq_codegen.output import package_files
from txzmq_codegen.problems import Problem, Problems
from txzmq_codegen.progress import files
from txzmq_codegen.protoc import Compiled, CompileErrors, compile_protos
from txzmq_codegen.sources import Sources, find
from txzmq_codegen.stub_input import StubInput
from txzmq_codegen.stub_writer import writing_stubs
from txzmq_codegen.stubs import moved_stub

__all__ = ["Plan", "Progress", "plan", "without_comments"]

#: Called with the step that begins, and the share of the run that is over, from 0 to 1.
Progress = Callable[[str, float], None]


class Plan(NamedTuple):
    """What the protos become."""

    sources: Sources
    descriptors: FileDescriptorSet
    #: The text of every file, by its name in the output folder.
    texts: Mapping[str, str]
    warnings: Sequence[Problem]


def plan(config: Config, progress: Progress) -> Plan:
    """Find, compile and generate; nothing is written.

    :raises Problems: with every problem of every file, under the names that the user knows.
    :raises UsageError: if there is nothing to generate, or the tools are not installed.
    """
    sources = find(config.protos, config.include)
    progress(f"compiling {files(len(sources.files))}", 0.0)
    layout = Layout(frozenset(sources.files), config.imports)
    # protoc cannot write two modules into one file; the generator reports which collide.
    messages = not collisions(layout)
    try:
        compiled = compile_protos(sources, messages=messages)
    except CompileErrors as errors:
        raise Problems((*errors.problems, *_others(sources, errors.fine, layout))) from None
    by_name = {file.name: file for file in compiled.descriptors.file}
    if config.include_imports:
        more = imported(sources, compiled.descriptors.file, config.imports)
        if more.files:
            sources, layout, compiled = _included(sources, more, compiled, config.imports)
    try:
        texts = _texts(compiled, list(sources.files), layout, progress, config.pool)
    except Problems as problems:
        raise Problems(map(sources.place, problems.problems)) from None
    missing = missing_modules(by_name, sources.files, layout, config.output)
    warnings = (*sources.warnings, *compiled.warnings, *map(sources.place, missing))
    texts.update(package_files(texts, layout))
    return Plan(sources, compiled.descriptors, texts, warnings)


def _included(
    sources: Sources, more: Sources, compiled: Compiled, imports: Imports
) -> tuple[Sources, Layout, Compiled]:
    """The same run with the imported protos generated along: it covers all of the output."""
    files = dict(sorted({**sources.files, **more.files}.items()))
    layout = Layout(frozenset(files), imports)
    added = compile_protos(more, messages=not collisions(layout))
    both = {**compiled.messages, **added.messages}
    # What protoc warns of in files of others is nothing that the user can mend.
    return (
        sources._replace(files=files, scope=("",)),
        layout,
        compiled._replace(messages={proto: both[proto] for proto in files if proto in both}),
    )


def _others(sources: Sources, fine: Sequence[str], layout: Layout) -> Sequence[Problem]:
    """The generator's problems with the files that protoc accepts: so one run reports all."""
    if not fine:
        return ()
    some = sources._replace(files={proto: sources.files[proto] for proto in fine})
    files_ = {file.name: file for file in compile_protos(some, messages=False).descriptors.file}
    problems = (*_problems(files_, fine, layout), *_of_services(files_, fine, layout))
    return [sources.place(problem) for problem in problems]


def _texts(
    compiled: Compiled,
    protos: Sequence[str],
    layout: Layout,
    progress: Progress,
    pool: str | None,
) -> dict[str, str]:
    by_name = {file.name: file for file in compiled.descriptors.file}
    problems = list(_problems(by_name, protos, layout))
    if pool is not None:
        problems += [it for proto in protos for it in strangers(by_name[proto], layout)]
    if problems:
        raise Problems(sorted((*problems, *_of_services(by_name, protos, layout))))
    sizes = {proto: by_name[proto].ByteSize() for proto in protos}
    with writing_stubs(sizes, StubInput(by_name.values(), layout)) as stubs:
        progress("generating services", 0.4)
        texts = services(compiled.descriptors.file, protos, layout)
        progress("generating messages", 0.6)
        for proto, text in compiled.messages.items():
            name = "/".join(layout.module(proto).parts)
            texts[f"{name}.py"] = moved_messages(text, by_name[proto], layout, pool)
        progress("generating stubs", 0.7)
        for proto, text in stubs.result():
            name = "/".join(layout.module(proto).parts)
            texts[f"{name}.pyi"] = moved_stub(text, by_name[proto], layout, by_name)
    return texts


def _problems(
    files: Mapping[str, FileDescriptorProto], protos: Sequence[str], layout: Layout
) -> Iterator[Problem]:
    """What is wrong with the messages and the imports of *protos*."""
    has_casts = any(map(is_genuine, files.values()))
    for proto in protos:
        yield from unnameable(files[proto], layout)
        yield from forbidden_names(files[proto])
        if has_casts:
            yield from cast_problems(files[proto])


def _of_services(
    files: Mapping[str, FileDescriptorProto], protos: Sequence[str], layout: Layout
) -> Sequence[Problem]:
    """What is wrong with the services of *protos*, and with the names of their modules."""
    try:
        services(list(files.values()), protos, layout)
    except Problems as problems:
        return problems.problems
    return ()


def without_comments(descriptors: FileDescriptorSet) -> bytes:
    """The set as bytes, the same for the same protos."""
    bare = FileDescriptorSet()
    bare.CopyFrom(descriptors)
    for file in bare.file:
        file.ClearField("source_code_info")
    return bare.SerializeToString(deterministic=True)
