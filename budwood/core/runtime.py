"""A runtime opens a bundle on some hardware and runs arrays through it."""

from abc import ABC, abstractmethod
from typing import ClassVar

from budwood.core.bundle import Bundle
from budwood.core.task import Arrays

__all__ = ["Runtime"]


class Runtime(ABC):
    """What every file in `budwood/runtimes/` gives. `run` may be called from several threads at once."""

    reads: ClassVar[tuple[str, ...]]
    """The bundle formats that it can run, the best first."""
    library: ClassVar[str] = ""
    """The package that it cannot do without; empty where it needs none."""
    install: ClassVar[str] = ""
    """The command that brings this package."""

    in_place: bool = False
    """Whether the opened model is a decoder that `run_in_place` runs."""

    @classmethod
    @abstractmethod
    def open(cls, bundle: Bundle, threads: int) -> "Runtime":
        """Load the bundle's model. `threads` is the number for one call, 0 for all cores."""

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """One batch. Inputs that the model does not take are ignored."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what `run` gives; empty where they are known after the first batch only."""
        return ()

    def run_in_place(self, inputs: Arrays, cache: Arrays) -> Arrays:
        """One batch of a decoder whose new keys and values are written into `cache` itself; the other outputs.

        Args:
            inputs: what `run` takes, without the cache. Row r of `attention_mask` ends with the new tokens of row r.
            cache: `past_key_values.N.key|value`, each (rows, heads, capacity, width), contiguous and writable.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Free what was loaded. Calling it twice is harmless."""
