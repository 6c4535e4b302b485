"""Parameters in the name of a subject: ``torch-nn@device=cuda`` is the subject torch-nn, made with ``device="cuda"``.

They stand in the name, and nowhere else, so that whatever names a subject again (a report, a script, replay, a process
of its own) makes the same one. A subject's factory takes them as keyword-only arguments whose default is a text.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from bnspec_conformance.subjects.contract import SubjectError

__all__ = ["made_with", "named_with", "parameters_of", "split", "with_parameters"]

_ONE = r"[A-Za-z_]\w*=[^@,]+"
_NAMED = re.compile(rf"(?P<bare>.+?)@(?P<given>{_ONE}(?:,{_ONE})*)")


def split(name: str) -> tuple[str, dict[str, str]]:
    """Return the name of a subject without its parameters, and these; a program's name has none.

    Raises
    ------
    SubjectError
        If one is given twice.

    Examples
    --------
    >>> split("torch-nn@device=cuda:1")
    ('torch-nn', {'device': 'cuda:1'})
    >>> split("exec:./port --seed@level=3")
    ('exec:./port --seed@level=3', {})
    """
    found = None if name.startswith("exec:") else _NAMED.fullmatch(name)
    if found is None:
        return name, {}
    pairs = [pair.split("=", 1) for pair in found["given"].split(",")]
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SubjectError(f"subject {name!r} has parameter {twice[0]} twice; expected each once.")
    return found["bare"], dict(pairs)


def with_parameters(name: str, more: Mapping[str, str]) -> str:
    """Return the name of a subject with further parameters.

    Raises
    ------
    SubjectError
        If the name has one of them already, or is a program's.

    Examples
    --------
    >>> with_parameters("onnxruntime", {"provider": "CPUExecutionProvider"})
    'onnxruntime@provider=CPUExecutionProvider'
    """
    if not more:
        return name
    if name.startswith("exec:"):
        raise SubjectError(f"a program takes no {next(iter(more))}: {name}. Give it as a word of its command.")
    bare, given = split(name)
    for key in more:
        if key in given:
            raise SubjectError(f"subject {name!r} has a {key} in its name, and --{key} gives another; leave one out.")
    return f"{bare}@{','.join(f'{key}={value}' for key, value in (given | dict(more)).items())}"


def named_with(own: str, name: str) -> str:
    """Return the name that a subject has in reports: its own, with the parameters that it was asked with.

    Examples
    --------
    >>> named_with("torch-nn", "bnspec_conformance.subjects.frameworks.torch.torch_nn:layer@device=cpu")
    'torch-nn@device=cpu'
    """
    bare, given = split(name)
    ending = name.removeprefix(bare) if given else ""
    return own if own.endswith(ending) else own + ending


def parameters_of(made: Any) -> tuple[str, ...]:
    """Return the parameters that a factory takes: keyword-only arguments whose default is a text."""
    if not callable(made):
        return ()
    try:
        arguments = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # a callable of compiled code may have none
        return ()
    return tuple(a.name for a in arguments if a.kind is a.KEYWORD_ONLY and isinstance(a.default, str))


def made_with(made: Any, given: Mapping[str, str], name: str) -> Any:
    """Return the subject that a factory makes with some parameters, or the object itself.

    Parameters
    ----------
    made : Any
        A factory, a class or an object, to which a name leads.
    given : mapping of str to str
    name : str
        For the error.

    Raises
    ------
    SubjectError
        For a parameter that the factory does not take, with those that it does.
    """
    known = parameters_of(made)
    for key in given:
        if key not in known:
            says = f"those of {split(name)[0]} are {', '.join(known)}" if known else "it takes none"
            raise SubjectError(f"subject {name!r}: there is no parameter {key!r}; {says}. Leave it out.")
    return made(**given) if callable(made) else made
