"""How training shares the cores and the memory with whatever else runs on the machine."""

import ctypes
import os
import sys

__all__ = ["keep_memory", "share_cores"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The numbers of these settings in glibc's malloc.h."""


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin; call it before torch is imported, later it has no effect.

    A spinning thread holds a core that its partner needs when a third process runs: on two busy cores a training step
    took 4 s instead of 0.5 s. A user's own setting is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_memory() -> None:
    """Let large freed blocks stay with the process, where glibc is the C library; elsewhere nothing happens.

    The activations of a batch of images have tens of megabytes each. By default every one is fetched from the kernel,
    zeroed page by page and given back at once: that took three quarters of a forward pass of EfficientNet-Lite0.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
