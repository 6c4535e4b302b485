"""Facts of a report about the machine of a run and its installed packages."""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bnspec_conformance.subjects import version_of

__all__ = ["device", "device_of", "libraries", "machine_facts", "versions"]

#: "torch 2.13.0+cpu" in what a subject says of its version.
_NAMED = re.compile(r"([A-Za-z][\w.-]*)[ ]+v?(\d[\w.+!]*)")

#: Named whenever they are installed: cases and checks depend on them.
_ALWAYS = {
    "array-api-compat": "array_api_compat",
    "hypothesis": "hypothesis",
    "ml_dtypes": "ml_dtypes",
    "numpy": "numpy",
    "pytest": "pytest",
}

#: Named when a subject has loaded them.
_IF_LOADED = {
    "array-api-strict": "array_api_strict",
    "cupy": "cupy",
    "dm-haiku": "haiku",
    "equinox": "equinox",
    "flax": "flax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "keras": "keras",
    "mpi4py": "mpi4py",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tensorflow": "tensorflow",
    "tf-keras": "tf_keras",
    "torch": "torch",
}


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on, by the package's name."""
    import bnspec

    found = {"bnspec": bnspec.__version__}
    for package, module in (_ALWAYS | _IF_LOADED).items():
        if package in _ALWAYS or module in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:  # under another distribution's name, such as cupy-cuda13x
                own = getattr(sys.modules.get(module), "__version__", None)
                if own is not None:
                    found[package] = str(own)
    return dict(sorted(found.items()))


def machine_facts() -> dict[str, str]:
    """Return the interpreter, the operating system and the processor."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(aliased=True, terse=True),
        "machine": platform.machine(),
    }


def device() -> str:
    """Return the accelerator that the loaded libraries use, by its name, or "cpu"."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cupy = sys.modules.get("cupy")
    if cupy is not None and cupy.cuda.is_available():
        return str(cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode())
    jax = sys.modules.get("jax")
    if jax is not None and jax.default_backend() != "cpu":
        return str(jax.devices()[0].device_kind)
    return "cpu"


def device_of(subject: Any) -> str:
    """Return the kind of device a subject computes on, as "cpu" or "cuda": its own word or its library's default."""
    said = getattr(subject, "device", None)
    if isinstance(said, str):
        return said
    words = {name.lower() for name, _ in libraries(version_of(subject))}
    if "cupy" in words:
        return "cuda"
    if "torch" in words and "torch" in sys.modules:
        return str(sys.modules["torch"].get_default_device().type)
    if "jax" in words and "jax" in sys.modules:
        found = str(sys.modules["jax"].default_backend())
        return "cuda" if found == "gpu" else found
    return "cpu"


def libraries(text: str) -> list[tuple[str, str]]:
    """Name and version of every library that a subject's `version` names, the one under test first.

    bnspec itself comes last: in "bnspec 0.1.0 on torch 2.13.0" it is torch that is under test.
    """
    found = _NAMED.findall(text)
    return sorted(found, key=lambda pair: pair[0].lower() == "bnspec")
