"""What this machine has of what Budwood can use, and what is broken: `budwood doctor` without data."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from budwood.core import registry
from budwood.engine.bases import catalogue, packaged
from budwood.engine.findings import Finding, gravest_first
from budwood.engine.machine import memory_gb, usable_cores, versions
from budwood.engine.providers import PROVIDERS, VARIABLE
from budwood.engine.table import note
from budwood.engine.transformers_import import torchvision_fault

__all__ = ["describe_environment", "examine_environment", "runtimes_here"]

EXTRAS = {
    "train": (("torch", "transformers", "sklearn", "onnx", "peft", "matplotlib"), "adapt, shrink, plan and evaluate"),
    "chem": (("rdkit",), "molecules"),
    "openvino": (("openvino", "nncf"), "--runtime openvino, and the int8 graphs that it runs fast"),
    "prune": (("torch_pruning",), "cuts of channels"),
}
"""For each extra of the package: the modules that it brings, and what needs them."""


def describe_environment() -> list[str]:
    """The cores, the memory, versions of packages and the runtimes, as lines to be printed."""
    facts = [note("cores", usable_cores(), "that this process may use")]
    if (memory := memory_gb()) is not None:
        facts.append(note("memory", f"{memory} GB", "of the machine"))
    facts += [note(name, number, "installed") for name, number in versions().items()]
    return facts + [note(name, state, why) for name, state, why in runtimes_here()]


def runtimes_here() -> list[tuple[str, str, str]]:
    """Each runtime, and each execution provider of ONNX Runtime: its name, `there` or `absent`, and what brings it.

    A provider that is there may still fail to start: drivers show only then.
    """
    found = []
    for name in registry.names("runtimes"):
        kind = registry.get("runtimes", name)
        here = not kind.library or find_spec(kind.library) is not None
        number = f"{kind.library} {installed(kind.library)}" if here and kind.library else "needs nothing"
        found.append((f"runtime {name}", *(("there", number) if here else ("absent", kind.install))))
    official = available_providers()
    for name, provider in PROVIDERS.items():
        here = provider.official in official
        taken = "taken by itself" if provider.automatic else f"taken where {VARIABLE} names it"
        found.append((f"provider {name}", *(("there", taken) if here else ("absent", provider.install))))
    return found


def available_providers() -> list[str]:
    """ONNX Runtime's own names of the providers that it was built with; none where it is not installed."""
    if find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def examine_environment() -> list[Finding]:
    """What is missing or broken, the gravest first. It imports torchvision where it is installed, which imports torch.

    A torchvision that does not fit torch makes every import of transformers fail, also of text models. Budwood hides it
    from transformers, so this is a warning for the user's other programs.
    """
    return gravest_first([*broken_torchvision(), *missing_extras(), *missing_bases()])


def broken_torchvision() -> list[Finding]:
    fault = torchvision_fault()
    if not fault:
        return []
    first = fault.strip().splitlines()[0]
    both = f"torchvision {installed('torchvision')} does not load with torch {installed('torch')}"
    message = f"{both} ({first}); Budwood goes on without it, but other programs cannot import transformers"
    fix = "install the torchvision that was built for this torch, or remove it: pip uninstall torchvision"
    return [Finding("torchvision", "warning", message, fix=fix)]


def missing_extras() -> list[Finding]:
    found = []
    for extra, (modules, purpose) in EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        if absent:
            message = f"{', '.join(absent)} not installed: needed for {purpose}"
            found.append(Finding("missing_extra", "info", message, fix=f"pip install 'budwood[{extra}]'"))
    return found


def missing_bases() -> list[Finding]:
    """The default base of each task that would have to be fetched, or installed, first."""
    found = []
    for name in registry.names("tasks"):
        base = catalogue().get(registry.get("tasks", name).default_base)
        if base is None or base.new or packaged(base) is not None or not base.install or converts(base.converter):
            continue
        where = "is fetched from the hub when it is first used" if base.hub else "is not installed"
        message = f"{base.name}, the default base of {name}, {where}"
        found.append(Finding("missing_base", "info", message, fix=base.install))
    return found


def converts(converter: str) -> bool:
    """Whether the weights that a converter writes a base from are installed."""
    if not converter:
        return False
    from importlib import import_module

    return import_module(f"budwood.engine.{converter}").find_weights() is not None


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(of no known version)"
