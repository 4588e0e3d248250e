"""OpenVINO on the CPU: it reads the same ONNX graphs as ONNX Runtime, and `--runtime auto` finds which is faster."""

from threading import Lock
from typing import Any, ClassVar, Self, final

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays
from budwood.engine.machine import usable_cores
from budwood.engine.openvino_graph import read_graph, refused

__all__ = ["OpenVinoRuntime"]


@final
class OpenVinoRuntime(Runtime):
    """Each call borrows an inference request from a pool, so that threads never share one.

    Only OpenVINO's core is used, which reports nothing to anyone: the usage statistics of the package belong to its
    model converter, and that is never called here.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx-int8", "onnx-q4", "onnx")
    library: ClassVar[str] = "openvino"
    install: ClassVar[str] = "pip install 'budwood[openvino]'"

    def __init__(self, model: bytes, threads: int = 0) -> None:
        """Raises BundleError when OpenVINO refuses the graph, such as one with ONNX Runtime's own int8 operators."""
        core, graph = read_graph(model)
        try:
            self._compiled: Any = core.compile_model(graph, "CPU", settings(threads))
        except Exception as error:  # bare RuntimeError for every kind of failure
            raise refused(error) from error
        self._inputs = [(item.get_any_name(), index) for index, item in enumerate(self._compiled.inputs)]
        self._outputs = [item.get_any_name() for item in self._compiled.outputs]
        self._idle: list[Any] = []
        self._lock = Lock()

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> Self:
        """Load the best graph of the bundle from memory, so that no external file can be referenced.

        Raises:
            BundleError: the bundle has no ONNX graph, or one that OpenVINO cannot run.
        """
        for format in cls.reads:
            if format in bundle.formats:
                return cls(bundle.read_model(format), threads)
        raise BundleError("the bundle has no ONNX graph", where=str(bundle.path), fix="budwood export NAME")

    def run(self, inputs: Arrays) -> Arrays:
        """One batch. Raises BundleError when OpenVINO cannot compute it: it finds some faults of a graph only here."""
        request = self._borrow()
        try:
            found = request.infer({index: inputs[name] for name, index in self._inputs}, share_inputs=True)
        except RuntimeError as error:
            raise refused(error, "compute this batch") from error
        # The request overwrites its outputs when it is used again.
        answer = {name: found[index].copy() for index, name in enumerate(self._outputs)}
        with self._lock:
            if self._compiled is not None:
                self._idle.append(request)
        return answer

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def close(self) -> None:
        with self._lock:
            self._compiled = None
            self._idle.clear()

    def _borrow(self) -> Any:
        with self._lock:
            if self._compiled is None:
                raise BundleError("the runtime is closed")
            return self._idle.pop() if self._idle else self._compiled.create_infer_request()


def settings(threads: int) -> dict[str, Any]:
    """`threads` for one call, and as many calls at a time as the cores then allow; 0 for all cores in one call."""
    cores = usable_cores()
    streams = max(1, cores // threads) if threads else 1
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads * streams or cores,
        # Workers are processes of their own; the pinned threads of two of them would meet on one core.
        "ENABLE_CPU_PINNING": False,
        # It would compute in bfloat16 where the CPU has it, and miss the golden rows.
        "INFERENCE_PRECISION_HINT": "f32",
    }
