"""The torch runtime: what it does to the process it runs in."""

from collections.abc import Callable, Iterator

import pytest

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.engine.runtime_choice import measure_runtimes

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_closing_gives_the_process_its_threads_back(bundles: Callable[[str], Bundle]) -> None:
    runtime = registry.get("runtimes", "torch").open(bundles("text"), 1)
    assert torch.get_num_threads() == 1
    runtime.close()
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)
    runtime.close()
    assert torch.get_num_threads() == 2, "a second close changes nothing"


def test_what_is_trained_after_a_race_has_all_its_threads(bundles: Callable[[str], Bundle]) -> None:
    found = measure_runtimes(bundles("text"), seconds=0.0, runtimes=("onnxruntime", "torch"))
    assert found["torch"].ok, found["torch"].why
    assert torch.get_num_threads() == 3
