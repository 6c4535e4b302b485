"""What tests/emulated offers is what CuPy has, by the same names and arguments; where CuPy is installed to compare.

It needs no device: `make test-cuda` installs CuPy in an environment of its own.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import types

import pytest
from helpers import installed
from jobs import EMULATED

MODULES = ("cupy", "cupyx", "cupy.cuda", "cupy.cuda.device", "cupy.cuda.nccl", "cupy.cuda.runtime")

#: Prints what each module has; a class and its members by name with their parameters.
ASK = """
import importlib, inspect, json, sys
def parameters(value):
    value = value.__init__ if inspect.isclass(value) else value
    kinds = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    return None if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in kinds) else [p.name for p in kinds]
found = {}
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for key, value in vars(module).items():
        own = getattr(value, "__module__", "").split(".")[0] in ("cupy", "cupyx")
        if key.startswith("_") or not (own and callable(value)):
            continue
        found[f"{name}:{key}"] = parameters(value)
        for member, each in vars(value).items() if inspect.isclass(value) else ():
            if not member.startswith("_"):
                found[f"{name}:{key}.{member}"] = parameters(each) if inspect.isfunction(each) else None
print(json.dumps(found))
"""


def emulated():
    environment = os.environ | EMULATED
    line = [sys.executable, "-c", ASK, *MODULES]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_the_emulator_describes_itself():
    found = emulated()
    assert found["cupy.cuda.nccl:NcclCommunicator.allGather"] == ["sendbuf", "recvbuf", "count", "datatype", "stream"]
    assert found["cupy:ndarray.get"] == ["stream", "order", "out", "blocking"]
    assert "cupy.cuda:Event.done" in found


def test_cupy_has_all_of_it():
    if not installed("cupy"):
        pytest.skip("CuPy is not installed")
    missing, different = [], []
    for name, parameters in emulated().items():
        module, path = name.split(":")
        value = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part, missing)
        if value is missing:
            missing.append(name)
            continue
        said = declared(value, path.split(".")[-1])
        if parameters is not None and said is not None and parameters != said[: len(parameters)]:
            different.append(f"{name}: {parameters}, not {said}")
    assert not missing
    assert not different


def declared(value, name):
    """The names of a compiled function's parameters, from the first line of its documentation; None if unknown."""
    if isinstance(value, types.FunctionType):
        return None  # the emulator's are NumPy's, which CuPy follows
    line = re.match(rf"\S*\b{name}\((.*)\)", (value.__doc__ or "").strip().split("\n")[0])
    if line is None:
        return None
    words = [part.split("=")[0].split()[-1] for part in line[1].split(", ") if part.strip()]
    return [word for word in words if word not in ("self", "*")]
