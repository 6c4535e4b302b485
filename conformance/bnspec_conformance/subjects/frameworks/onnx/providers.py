"""Execution providers of onnxruntime, which run a model on one kind of device each, and on no other here."""

import functools
from collections.abc import Callable
from typing import Any

from bnspec_conformance.cases.case import Array
from bnspec_conformance.subjects.contract import SubjectError

__all__ = ["CPU", "errors", "starter"]

CPU = "CPUExecutionProvider"


def starter(provider: str) -> Callable[[Any], Callable[[dict[str, Array]], list[Any]]]:
    """Return a function that starts a model on a provider, and returns what runs it on named arrays.

    Raises
    ------
    SubjectError
        If this onnxruntime has no such provider, with those that it has.
    """
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise SubjectError(f"onnxruntime has no provider {provider!r} here; expected one of {', '.join(known)}.")
    return functools.partial(_start, provider)


def errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which onnxruntime refuses a model or its inputs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.Fail, state.InvalidArgument, state.NotImplemented, state.RuntimeException)


def _start(provider: str, model: Any) -> Callable[[dict[str, Array]], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if provider != CPU:  # what a provider does not have would go to the CPU without a word
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    used = session.get_providers()
    if provider not in used:
        raise SubjectError(f"onnxruntime could not start {provider} and took {', '.join(used)} in its place.")
    return lambda feeds: list(session.run(None, feeds))
