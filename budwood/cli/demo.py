"""`budwood demo`: the whole path on the example tickets."""

from budwood.cli.options import Json, Store


def demo(store: Store = None, json: Json = False) -> None:
    """Adapt, shrink, serve and ask, on the example tickets, and print what each stage gained."""
