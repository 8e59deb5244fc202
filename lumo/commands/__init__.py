"""The commands of the terminal, one file each.

A command's file has `add`, which puts its name, its options and the function that runs it into the parser. That function takes
the options and prints; it imports what it needs itself, so that `lumo --help` stays quick. A new command is a new file, and its
name in COMMANDS.
"""

from lumo.commands import adopt, bench, join, kernel, notebooks, plan, pull, report, run, train

COMMANDS = (report, run, notebooks, plan, train, bench, adopt, join, pull, kernel)  # in the order of `lumo --help`
