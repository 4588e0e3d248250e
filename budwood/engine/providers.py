"""Execution providers of ONNX Runtime: which there are, in what order they are tried, with which options.

Only the CPU provider was ever run by us. The options of the others follow ONNX Runtime's documentation; the golden rows
of a bundle say at each start whether what they compute is right.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from budwood.core.errors import UsageError
from budwood.engine.user_cache import user_cache

__all__ = ["CPU", "PROVIDERS", "VARIABLE", "Provider", "asked_for", "choose", "with_options"]

VARIABLE = "BUDWOOD_PROVIDERS"
"""The environment variable that names providers, such as `tensorrt,cuda`; the CPU always comes last."""
CPU = "cpu"


@dataclass(frozen=True)
class Provider:
    """One execution provider."""

    official: str
    """Its name in ONNX Runtime."""
    install: str
    """What brings it."""
    options: dict[str, Any] = field(default_factory=dict)
    automatic: bool = False
    """Whether it is taken wherever it is there; the others must be asked for."""


PROVIDERS: dict[str, Provider] = {
    # Building an engine takes minutes for each new range of shapes, so it is only taken when asked for.
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "pip install onnxruntime-gpu tensorrt, in place of onnxruntime",
        {"trt_engine_cache_enable": True, "trt_timing_cache_enable": True, "trt_fp16_enable": False},
    ),
    # With TF32 products have 10 bits of mantissa, and the golden rows are missed.
    "cuda": Provider(
        "CUDAExecutionProvider",
        "pip install 'onnxruntime-gpu[cuda,cudnn]', in place of onnxruntime",
        {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
        automatic=True,
    ),
    # The neural engine computes in half precision, so it is left out.
    "coreml": Provider(
        "CoreMLExecutionProvider",
        "onnxruntime for macOS has it",
        {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-openvino, in place of onnxruntime; or --runtime openvino, which needs neither",
        {"device_type": "CPU", "precision": "ACCURACY"},
    ),
    CPU: Provider("CPUExecutionProvider", "pip install onnxruntime", automatic=True),
}
"""By our short names, in the order in which they are tried."""


def asked_for() -> tuple[str, ...]:
    """The providers that the environment names, in its order; none where it names none.

    Raises:
        UsageError: a name is unknown.
    """
    names = tuple(name.strip().lower() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())
    for name in names:
        if name not in PROVIDERS:
            raise UsageError(f"there is no provider {name!a}", where=VARIABLE, fix=f"one of: {', '.join(PROVIDERS)}")
    return names


def choose(available: Sequence[str], asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Our names of the providers to use, in order; the last one is always the CPU.

    Args:
        available: what ONNX Runtime says that it has, by its own names.
        asked: our names, in the order wanted; without any the automatic ones that are there.

    Raises:
        UsageError: one that was asked for is not there.
    """
    for name in asked:
        if PROVIDERS[name].official not in available:
            raise UsageError(
                f"this ONNX Runtime has no {PROVIDERS[name].official}", where=VARIABLE, fix=PROVIDERS[name].install
            )
    found = asked or [name for name, item in PROVIDERS.items() if item.automatic and item.official in available]
    return (*(name for name in dict.fromkeys(found) if name != CPU), CPU)


def with_options(name: str) -> tuple[str, dict[str, Any]]:
    """The provider as ONNX Runtime takes it: its name and its options."""
    provider = PROVIDERS[name]
    if name == "tensorrt":
        return provider.official, provider.options | {"trt_engine_cache_path": str(user_cache("tensorrt"))}
    return provider.official, dict(provider.options)
