"""The command line: one file per verb, which parses, calls its function in `budwood.flow`, and prints."""

from budwood.cli.program import VERBS, main

__all__ = ["VERBS", "main"]
