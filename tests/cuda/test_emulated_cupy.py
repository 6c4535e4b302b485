"""What the emulated CuPy can do CuPy can do: names, arguments, operators, modules, hashes; where CuPy is installed.

It needs no device: `make test-cuda` installs CuPy in an environment of its own.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import types
from typing import Any

import pytest
from installed_here import installed
from mpi_jobs import EMULATED

MODULES = (
    "cupy",
    "cupyx",
    "cupy.cuda",
    "cupy.cuda.device",
    "cupy.cuda.driver",
    "cupy.cuda.nccl",
    "cupy.cuda.nvrtc",
    "cupy.cuda.runtime",
)

#: Prints what each module has; a class and its members by name with their parameters, and what the class itself can do.
ASK = """
import importlib, inspect, json, sys
def parameters(value):
    value = value.__init__ if inspect.isclass(value) else value
    try:
        kinds = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    except ValueError:
        return None
    return None if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in kinds) else [p.name for p in kinds]
def abilities(kind):
    # Of every object, or how a destructor is written, and no ability.
    common = {*dir(object), "__module__", "__dict__", "__weakref__", "__slots__", "__annotations__", "__del__"}
    return {
        "module": kind.__module__,
        "can be hashed": kind.__hash__ is not None,
        "compares by value": kind.__eq__ is not object.__eq__,
        "takes further attributes": kind.__dictoffset__ != 0,
        "can be referred to weakly": kind.__weakrefoffset__ != 0,
        "special methods": sorted(n for n in dir(kind) if n[:2] == n[-2:] == "__" and n not in common),
        "errors": [base.__name__ for base in kind.__mro__ if issubclass(base, BaseException)][1:],
    }
found = {"names": {}, "classes": {}}
for name in sys.argv[1:]:
    above, _, last = name.rpartition(".")
    module = getattr(importlib.import_module(above), last, None) if above else None
    module = importlib.import_module(name) if module is None else module  # of some only an attribute is CuPy's
    for key, value in vars(module).items():
        own = getattr(value, "__module__", "").split(".")[0] in ("cupy", "cupy_backends", "cupyx")
        if key.startswith("_") or not (own and callable(value)):
            continue
        found["names"][f"{name}:{key}"] = parameters(value)
        if inspect.isclass(value):
            found["classes"][f"{name}:{key}"] = abilities(value)
        for member, each in vars(value).items() if inspect.isclass(value) else ():
            if not member.startswith("_"):
                found["names"][f"{name}:{key}.{member}"] = parameters(each) if inspect.isfunction(each) else None
print(json.dumps(found))
"""

#: The order matters: a module of CuPy's may have a part only once that was imported.
ATTRIBUTES = """
import json, sys, cupy.cuda
names = ("nccl", "runtime", "device", "Device", "Event", "Stream")
print(json.dumps([name for name in names if hasattr(cupy.cuda, name)]))
"""


def asked(question: str, environment: Any) -> Any:
    line = [sys.executable, "-c", question, *MODULES]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def emulated() -> Any:
    return asked(ASK, os.environ | EMULATED)


@pytest.fixture(scope="module")
def real() -> Any:
    if not installed("cupy"):
        pytest.skip("CuPy is not installed")
    return asked(ASK, os.environ)


def test_the_emulator_describes_itself(emulated: Any) -> None:
    names, classes = emulated["names"], emulated["classes"]
    assert names["cupy.cuda.nccl:NcclCommunicator.allGather"] == ["sendbuf", "recvbuf", "count", "datatype", "stream"]
    assert names["cupy:ndarray.get"] == ["stream", "order", "out", "blocking"]
    assert "cupy.cuda:Event.done" in names
    assert "__mul__" in classes["cupy:ndarray"]["special methods"]
    assert not classes["cupy.cuda:Device"]["can be hashed"]


def test_cupy_has_all_names(emulated: Any, real: Any) -> None:
    missing: list[Any] = []
    different: list[Any] = []
    for name, parameters in emulated["names"].items():
        module, path = name.split(":")
        above, _, last = module.rpartition(".")
        value: Any = getattr(importlib.import_module(above), last, None) if above else None
        value = importlib.import_module(module) if value is None else value
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


def test_cupys_classes_can_do_as_much(emulated: Any, real: Any) -> None:
    """What is only in the emulator is an ability that a device's code could come to rely on."""
    different = []
    for name, mine in emulated["classes"].items():
        theirs = real["classes"][name]
        more = sorted({*mine.pop("special methods")} - {*theirs.pop("special methods")})
        if more:
            different.append(f"{name} has {more}")
        for fact, value in mine.items():
            ability = fact.startswith(("can", "takes"))
            if value and not theirs[fact] if ability else value != theirs[fact]:
                different.append(f"{name}: {fact}: {value}, not {theirs[fact]}")
    assert not different


def test_parts_are_there_as_early_as_in_cupy(real: Any) -> None:
    mine = asked(ATTRIBUTES, os.environ | EMULATED)
    assert set(mine) <= set(asked(ATTRIBUTES, os.environ))


def declared(value: Any, name: str) -> list[Any] | None:
    """The names of a compiled function's parameters, from the first line of its documentation; None if unknown."""
    if isinstance(value, types.FunctionType):
        return None  # the emulator's are NumPy's, which CuPy follows
    line = re.match(rf"\S*\b{name}\((.*)\)", (value.__doc__ or "").strip().split("\n")[0])
    if line is None:
        return None
    words = [part.split("=")[0].split()[-1] for part in line[1].split(", ") if part.strip()]
    return [word for word in words if word not in ("self", "*")]
