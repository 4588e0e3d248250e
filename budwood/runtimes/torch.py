"""torch: runs the float weights as they were trained. The reference that exported graphs are compared with."""

from typing import Any, ClassVar, Self, final

from budwood.core.bundle import Bundle
from budwood.core.errors import require
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays
from budwood.engine.predictor import task_of

__all__ = ["TorchRuntime"]


@final
class TorchRuntime(Runtime):
    reads: ClassVar[tuple[str, ...]] = ("torch",)
    library: ClassVar[str] = "torch"
    install: ClassVar[str] = "pip install 'budwood[train]'"

    def __init__(self, model: Any) -> None:
        self._torch = require("torch", extra="train")
        self._model = model.eval()
        self._threads_before = 0

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> Self:
        """Load the safetensors. `threads` sets torch's process-wide thread count until `close`; 0 leaves it as it is.

        Raises:
            BundleError: the bundle has no safetensors.
        """
        torch = require("torch", extra="train")
        bundle.model_file("torch")
        runtime = cls(task_of(bundle).build(bundle.path))
        if threads:
            runtime._threads_before = torch.get_num_threads()
            torch.set_num_threads(threads)
        return runtime

    def run(self, inputs: Arrays) -> Arrays:
        with self._torch.inference_mode():
            wanted = getattr(self._model, "inputs", inputs)
            tensors = {name: self._torch.from_numpy(value) for name, value in inputs.items() if name in wanted}
            return {name: value.numpy() for name, value in self._model(**tensors).items()}

    def close(self) -> None:
        """Let the model go and give the process its thread count back, for the training that may follow."""
        self._model = None
        if self._threads_before:
            self._torch.set_num_threads(self._threads_before)
            self._threads_before = 0
