"""One run of the command line: from protos to the texts of all files, and to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from txzmq_codegen.config import Config
from txzmq_codegen.generate import services
from txzmq_codegen.imports import imported, missing_modules
from txzmq_codegen.layout import Imports, Layout, collisions
from txzmq_codegen.messages import for_stubs, moved_messages, moved_stub
from txzmq_codegen.output import package_files
from txzmq_codegen.problems import Problem, Problems
from txzmq_codegen.progress import files
from txzmq_codegen.protoc import Compiled, CompileErrors, compile_protos, writing_stubs
from txzmq_codegen.sources import Sources, find

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
        texts = _texts(compiled, list(sources.files), layout, progress)
    except Problems as problems:
        raise Problems(map(sources.place, problems.problems)) from None
    missing = missing_modules(by_name, sources.files, layout, config.output)
    warnings = (*compiled.warnings, *map(sources.place, missing))
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
    some = sources._replace(files={proto: sources.files[proto] for proto in fine})
    descriptors = compile_protos(some, messages=False).descriptors if fine else FileDescriptorSet()
    try:
        services(descriptors.file, fine, layout)
    except Problems as problems:
        return [sources.place(problem) for problem in problems.problems]
    return ()


def _texts(
    compiled: Compiled, protos: Sequence[str], layout: Layout, progress: Progress
) -> dict[str, str]:
    descriptors = compiled.descriptors.file
    by_name = {file.name: file for file in descriptors}
    stub_files = for_stubs(descriptors, layout)
    stub_names = {file.name: new.name for file, new in zip(descriptors, stub_files, strict=True)}
    with writing_stubs([stub_names[proto] for proto in protos], stub_files) as stubs:
        progress("generating services", 0.4)
        texts = services(descriptors, protos, layout)
        progress("generating messages", 0.6)
        for proto, text in compiled.messages.items():
            name = "/".join(layout.module(proto).parts)
            texts[f"{name}.py"] = moved_messages(text, by_name[proto], layout)
        progress("generating stubs", 0.7)
        stub_texts = stubs.result()
        for proto in protos:
            text = stub_texts[stub_names[proto]]
            name = "/".join(layout.module(proto).parts)
            texts[f"{name}.pyi"] = moved_stub(
                text, by_name[proto], layout, _visible(proto, by_name)
            )
    return texts


def _visible(proto: str, files: Mapping[str, FileDescriptorProto]) -> Iterator[str]:
    """The files that *proto* may refer to: its imports, and their public imports."""
    seen: set[str] = set()
    todo = list(files[proto].dependency)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            yield name
            todo.extend(files[name].dependency[index] for index in files[name].public_dependency)


def without_comments(descriptors: FileDescriptorSet) -> bytes:
    """The set as bytes, the same for the same protos."""
    bare = FileDescriptorSet()
    bare.CopyFrom(descriptors)
    for file in bare.file:
        file.ClearField("source_code_info")
    return bare.SerializeToString(deterministic=True)
