"""The fake that ships: it computes nothing and answers at once, or after a delay. For tests, demos and load tests.

A bundle may hold `null.json`: `{"delay_seconds": 0.003, "fail_id": 7, "nan_id": 8, "exit_id": 9}`. A row with the
token `fail_id` raises, one with `nan_id` gives not-a-number, one with `exit_id` ends the process.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays

__all__ = ["NullRuntime"]


NEVER = -(1 << 62)
"""No token and no pixel; small negative numbers are pixels that were normalised."""


@final
@dataclass(frozen=True)
class NullRuntime(Runtime):
    """Logits that depend on a row's first array alone, whatever else is in its batch."""

    labels: int
    """Number of logits of a row."""
    delay_seconds: float = 0.0
    fail_id: int = NEVER
    nan_id: int = NEVER
    exit_id: int = NEVER

    reads: ClassVar[tuple[str, ...]] = ("onnx-int8", "onnx-q4", "onnx", "torch")

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> Self:
        """As many outputs as the bundle's task has labels, at least one. Raises BundleError on an odd null.json."""
        path = bundle.path / "null.json"
        settings: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        labels = (bundle.manifest.task or {}).get("labels", ())
        try:
            return cls(max(1, len(labels)), **settings)
        except TypeError as error:
            raise BundleError(f"null.json is off: {error}", where=str(path)) from error

    def run(self, inputs: Arrays) -> Arrays:
        """`{"logits": float32 of shape (rows, labels)}`; inputs of any shape (rows, …)."""
        values = next(iter(inputs.values())).astype(np.int64)
        values = values.reshape(len(values), -1)
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        if (values == self.exit_id).any():
            os._exit(70)
        if (values == self.fail_id).any():
            raise RuntimeError("the null runtime was told to fail on this row")
        logits = hashed(values, self.labels)
        logits[(values == self.nan_id).any(axis=1)] = np.nan
        return {"logits": logits}

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("logits",)

    def close(self) -> None:
        """Nothing was loaded."""


def hashed(values: NDArray[np.int64], outputs: int) -> NDArray[np.float32]:
    """Numbers in [-4, 4) from a multiplicative hash of each row; zeros, such as padding, do not count."""
    place = np.arange(1, values.shape[1] + 1, dtype=np.uint64)
    row = (values.astype(np.uint64) * (place * np.uint64(2) + np.uint64(1))).sum(axis=1, dtype=np.uint64)
    column = np.arange(1, outputs + 1, dtype=np.uint64)
    mixed = (row[:, None] + column) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 21) - 4, np.float32)
