"""The commands of `fog`, a family a file. Each file has ``parser(name)`` and ``async run(name, args)``."""
