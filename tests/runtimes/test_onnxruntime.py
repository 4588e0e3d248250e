"""ONNX Runtime's providers, on lists and sessions that are made up: this code must be right before a GPU is there."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, UsageError
from budwood.engine import providers
from budwood.engine.providers import PROVIDERS, choose
from budwood.runtimes.onnxruntime import OnnxRuntime

ALL = [item.official for item in PROVIDERS.values()]
GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("available", "asked", "expected"),
    [
        (["AzureExecutionProvider", "CPUExecutionProvider"], (), ("cpu",)),
        (GPU, (), ("cuda", "cpu")),
        (["CoreMLExecutionProvider", "CPUExecutionProvider"], (), ("cpu",)),
        (["OpenVINOExecutionProvider", "CPUExecutionProvider"], (), ("cpu",)),
        (GPU, ("tensorrt", "cuda"), ("tensorrt", "cuda", "cpu")),
        (GPU, ("cpu",), ("cpu",)),
        (ALL, ("openvino", "openvino"), ("openvino", "cpu")),
    ],
)
def test_what_is_there_or_asked_for_is_taken_and_the_cpu_comes_last(available, asked, expected) -> None:
    assert choose(available, asked) == expected


def test_what_is_asked_for_and_not_there_is_refused_with_what_brings_it(monkeypatch, tiny_bundle: Bundle) -> None:
    monkeypatch.setenv(providers.VARIABLE, " TensorRT , cuda")
    assert providers.asked_for() == ("tensorrt", "cuda")
    with pytest.raises(UsageError, match="no TensorrtExecutionProvider") as caught:
        OnnxRuntime.open(tiny_bundle, 1)
    assert "onnxruntime-gpu" in caught.value.fix
    monkeypatch.setenv(providers.VARIABLE, "gpu")
    with pytest.raises(UsageError, match="no provider 'gpu'"):
        providers.asked_for()


def test_engines_of_tensorrt_are_kept_in_the_user_s_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name, options = providers.with_options("tensorrt")
    assert name == "TensorrtExecutionProvider"
    assert options["trt_engine_cache_path"] == str(tmp_path / "budwood" / "tensorrt")
    assert "trt_engine_cache_path" not in PROVIDERS["tensorrt"].options


class FakeSession:
    """A session of an ONNX Runtime with a GPU; only the providers in `starts` come up."""

    starts = tuple(GPU)
    given: Any = None

    def __init__(self, model: bytes, options: Any, providers: list[tuple[str, dict[str, Any]]]) -> None:
        FakeSession.given = providers

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.given if name in self.starts]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: GPU)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(FakeSession, "starts", tuple(GPU))
    return FakeSession


def test_a_gpu_is_used_where_its_provider_is_there(gpu) -> None:
    assert OnnxRuntime(b"", 1).providers == ("cuda", "cpu")
    (cuda, options), (cpu, none) = gpu.given
    assert (cuda, cpu, none) == ("CUDAExecutionProvider", "CPUExecutionProvider", {})
    assert options["use_tf32"] == 0


def test_a_provider_that_does_not_start_is_told_or_refused(gpu, monkeypatch, caplog) -> None:
    monkeypatch.setattr(gpu, "starts", ("CPUExecutionProvider",))
    with caplog.at_level(logging.WARNING, "budwood.runtimes"):
        assert OnnxRuntime(b"", 1).providers == ("cpu",)
    assert "cuda did not start" in caplog.text
    with pytest.raises(BundleError, match="cuda did not start") as caught:
        OnnxRuntime(b"", 1, ("cuda",))
    assert "BUDWOOD_PROVIDERS" in caught.value.fix


def test_here_the_cpu_computes(tiny_bundle: Bundle, monkeypatch) -> None:
    monkeypatch.delenv(providers.VARIABLE, raising=False)
    import onnxruntime

    expected = "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
    assert OnnxRuntime.open(tiny_bundle, 1).providers[0] == expected
