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

    @classmethod
    @abstractmethod
    def open(cls, bundle: Bundle, threads: int) -> "Runtime":
        """Load the bundle's model. `threads` is the number for one call, 0 for all cores."""

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """One batch. Inputs that the model does not take are ignored."""

    @abstractmethod
    def close(self) -> None:
        """Free what was loaded. Calling it twice is harmless."""
