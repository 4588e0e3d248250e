"""Bundles that the tests of all runtimes share; made once, so do not write into them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import exported
import pytest

from budwood.core.bundle import Bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Callable[[str], Bundle]:
    """A bundle by its kind: `text`, `image`, `vit` or `writer`."""
    pytest.importorskip("onnx")

    @cache
    def make(kind: str) -> Bundle:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "text":
            return exported.text(folder, tiny_bert)
        return exported.writer(folder) if kind == "writer" else exported.image(folder, KINDS[kind])

    return make


KINDS = {"image": "mobilenet_v2", "vit": "vit"}
