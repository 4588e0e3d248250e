"""How training shares the cores with whatever else runs on the machine."""

import os

__all__ = ["share_cores"]


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin; call it before torch is imported, later it has no effect.

    A spinning thread holds a core that its partner needs when a third process runs: on two busy cores a training step
    took 4 s instead of 0.5 s. A user's own setting is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
