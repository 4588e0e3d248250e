"""ONNX Runtime: the default for every task. On the CPU, and on a GPU where its provider is there."""

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any, ClassVar, Self, final

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, require
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays
from budwood.engine.providers import CPU, PROVIDERS, asked_for, choose, with_options

__all__ = ["OnnxRuntime"]

CACHE, IN_PLACE = "budwood.cache", "in place"
"""A note in decoder graphs that `engine/decoder_graph.py` writes."""

logger = logging.getLogger("budwood.runtimes")


@final
class OnnxRuntime(Runtime):
    reads: ClassVar[tuple[str, ...]] = ("onnx-int8", "onnx-q4", "onnx")
    library: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = "pip install budwood"

    def __init__(self, model: bytes, threads: int = 0, providers: Sequence[str] | None = None) -> None:
        """Load a graph.

        Args:
            threads: of one call, 0 for all cores.
            providers: names as in `engine/providers.py`, in order; by default those that the environment names, else
                those that are there. The CPU is always the last.

        Raises:
            BundleError: ONNX Runtime refuses the graph, or a provider that was asked for does not start.
            UsageError: a provider that was asked for is not there.
        """
        ort = require("onnxruntime", extra="serve")
        asked = asked_for() if providers is None else tuple(providers)
        chosen = choose(ort.get_available_providers(), asked)
        if {"cuda", "tensorrt"} & {*chosen}:
            ort.preload_dlls()  # finds the libraries that pip has installed
        try:
            self._ort_session = ort.InferenceSession(
                model, session_options(ort, threads), providers=[with_options(name) for name in chosen]
            )
        except Exception as error:  # its exceptions share no base class
            raise BundleError(
                f"ONNX Runtime cannot load the graph: {str(error)[:300]}",
                where="the ONNX graph",
                fix="make it again with budwood export, or upgrade onnxruntime",
            ) from error
        self.providers = running(self._ort_session, chosen, asked)
        self._inputs = frozenset(item.name for item in self._ort_session.get_inputs())
        self._outputs = [item.name for item in self._ort_session.get_outputs()]
        notes = self._ort_session.get_modelmeta().custom_metadata_map
        self.in_place = self.providers == (CPU,) and notes.get(CACHE) == IN_PLACE
        self._closing = Lock()

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> Self:
        """Load the best graph of the bundle from memory, so that no external file can be referenced.

        Raises:
            BundleError: the bundle has no ONNX graph.
        """
        for format in cls.reads:
            if format in bundle.formats:
                return cls(bundle.read_model(format), threads)
        raise BundleError("the bundle has no ONNX graph", where=str(bundle.path), fix="budwood export NAME")

    def run(self, inputs: Arrays) -> Arrays:
        session = self._ort_session
        if session is None:
            raise BundleError("the runtime is closed")
        values = session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def run_in_place(self, inputs: Arrays, cache: Arrays) -> Arrays:
        session = self._ort_session
        if session is None:
            raise BundleError("the runtime is closed")
        binding = session.io_binding()
        for name, value in inputs.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, np.asarray(value, order="C"))
        for name, value in cache.items():
            # The kernel writes where it reads when both have one address: only the new columns are touched.
            place = ("cpu", 0, value.dtype, value.shape, value.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values", "present"), *place)
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        return {"logits": binding.get_outputs()[-1].numpy()}

    def close(self) -> None:
        with self._closing:
            self._ort_session = None


def session_options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads starve the other workers: 39 against 58 requests a second with two clients on two cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def running(session: Any, chosen: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """Our names of the providers that did start: ONNX Runtime goes on without one whose libraries are missing.

    Raises:
        BundleError: one that was asked for is among the missing.
    """
    started = set(session.get_providers())
    missing = [name for name in chosen if PROVIDERS[name].official not in started]
    if needed := [name for name in missing if name in asked]:
        raise BundleError(
            f"the provider {needed[0]} did not start: its driver or libraries are missing",
            where=PROVIDERS[needed[0]].official,
            fix=f"{PROVIDERS[needed[0]].install}; or leave it out of BUDWOOD_PROVIDERS",
        )
    for name in missing:
        logger.warning("the provider %s did not start, so the model runs on the %s", name, CPU)
    return tuple(name for name in chosen if name not in missing)
