"""The command line: ``program`` has the verbs, each a module; the rest is what they share."""
