"""What `budwood doctor` says of runtimes: which are there, and what brings the others."""

import pytest

from budwood import flow
from budwood.engine import environment
from budwood.engine.environment import describe_environment, runtimes_here


def test_every_runtime_and_provider_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "openvino" else found(name))
    monkeypatch.setattr(
        environment, "available_providers", lambda: ["CUDAExecutionProvider", "TensorrtExecutionProvider"]
    )
    states = {name: (state, why) for name, state, why in runtimes_here()}
    assert states["runtime onnxruntime"][0] == "there"
    assert states["runtime null"] == ("there", "needs nothing")
    assert states["runtime openvino"] == ("absent", "pip install 'budwood[openvino]'")
    assert states["provider cuda"] == ("there", "taken by itself")
    assert states["provider tensorrt"] == ("there", "taken where BUDWOOD_PROVIDERS names it")
    assert states["provider cpu"] == ("absent", "pip install onnxruntime")
    assert states["provider openvino"][0] == "absent"
    assert "--runtime openvino" in states["provider openvino"][1]
    assert "runtime openvino=absent  # pip install 'budwood[openvino]'" in describe_environment()


def test_the_cpu_is_there_where_onnx_runtime_is() -> None:
    facts = flow.doctor().to_json()["facts"]
    assert facts["runtimes"]["runtime onnxruntime"]["state"] == "there"
    assert facts["runtimes"]["provider cpu"] == {"state": "there", "note": "taken by itself"}


def test_a_missing_extra_of_a_runtime_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.find_spec
    absent = {"openvino", "torch_pruning"}
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name in absent else found(name))
    fixes = {finding.fix for finding in environment.missing_extras()}
    assert {"pip install 'budwood[openvino]'", "pip install 'budwood[prune]'"} <= fixes
