"""The verbs of the command line, each a module with its ``command``."""
