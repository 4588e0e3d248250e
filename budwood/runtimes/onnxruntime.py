"""ONNX Runtime on the CPU: the default for every task, and the fastest that we measured there."""

from threading import Lock
from typing import ClassVar, Self, final

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, require
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays

__all__ = ["OnnxRuntime"]


@final
class OnnxRuntime(Runtime):
    reads: ClassVar[tuple[str, ...]] = ("onnx-int8", "onnx")

    def __init__(self, model: bytes, threads: int = 0) -> None:
        """Raises BundleError when ONNX Runtime refuses the graph."""
        ort = require("onnxruntime", extra="serve")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads starve the other workers: 39 against 58 requests a second with two clients on two cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._ort_session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise BundleError(
                f"ONNX Runtime cannot load the graph: {str(error)[:300]}",
                where="the ONNX graph",
                fix="make it again with budwood export, or upgrade onnxruntime",
            ) from error
        self._inputs = frozenset(item.name for item in self._ort_session.get_inputs())
        self._outputs = [item.name for item in self._ort_session.get_outputs()]
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

    def close(self) -> None:
        with self._closing:
            self._ort_session = None
