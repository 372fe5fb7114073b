"""The generator behind ``python -m txzmq.codegen``: ``.proto`` services to typed Python.

It imports nothing of the runtime, and runs without it. Modules, in the order in which they may
import each other::

    model                 frozen values: files, services, methods
    problems              what is wrong with a user's input, and where
    names, layout, text   Python names, where modules go, docstrings
    options, references   the options of streams; how a module refers to message types
    load                  CodeGeneratorRequest -> model
    render                model -> text of one _txzmq.py
    generate              CodeGeneratorRequest -> CodeGeneratorResponse, without IO
    messages              moves protoc's and mypy-protobuf's modules into a package
    breaking              two descriptor sets -> the changes that break callers
    sources, protoc, diagnose, output, config, baseline, progress, run, watch
                          everything that touches files, processes and the terminal
    plugin, cli           the two entry points
"""
