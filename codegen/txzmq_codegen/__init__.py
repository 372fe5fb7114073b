"""The generator behind ``python -m txzmq.codegen``: ``.proto`` services to typed Python.

It imports nothing of the runtime, so that it can run where no service does. Modules, in the order
in which they may import each other::

    model                 frozen values: files, services, methods
    problems              what is wrong with a user's input, and where
    names, layout, text   Python names, where modules go, docstrings
    options, references   our own options; what a module needs of others
    load                  CodeGeneratorRequest -> model
    render                model -> text of one _txzmq.py
    generate              CodeGeneratorRequest -> CodeGeneratorResponse, the pure heart
    messages              moves protoc's and mypy-protobuf's modules into a package
    breaking              two descriptor sets -> the changes that break somebody
    sources, protoc, diagnose, output, config, baseline, progress, run, watch
                          everything that touches files, processes and the terminal
    plugin, cli           the two doors
"""
