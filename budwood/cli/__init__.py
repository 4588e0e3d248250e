"""The command line: one file per verb, which parses, calls the function of the same name in `budwood.flow`, and prints."""

from budwood.cli.program import VERBS, main

__all__ = ["VERBS", "main"]
