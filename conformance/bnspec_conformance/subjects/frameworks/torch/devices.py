"""Devices of torch, by torch's own names: whether there is one, and computing on it."""

import contextlib

from bnspec_conformance.subjects.contract import SubjectError

__all__ = ["checked_device", "devices", "on_device"]


def checked_device(name: str) -> str:
    """Return the name of a device on which torch can compute.

    Raises
    ------
    SubjectError
        If torch has no such device, or has it not here.

    Examples
    --------
    >>> checked_device("cpu")
    'cpu'
    """
    import torch

    try:
        if torch.ones(1, device=name).cpu().item() != 1.0:
            raise RuntimeError("what is put there does not come back")
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:  # each library has its own
        why = str(error).splitlines()[0].rstrip(".")
        raise SubjectError(
            f"torch cannot compute on device {name!r}: {why}. Here it has {', '.join(devices())}."
        ) from error
    return name


def devices() -> list[str]:
    """Return the devices that torch has here: the CPU, and those of the accelerator."""
    import torch

    accelerator = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerator is None:
        return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if not accelerator.is_available():
        return ["cpu"]
    return ["cpu", *(f"{accelerator.current_accelerator().type}:{n}" for n in range(accelerator.device_count()))]


def on_device(name: str) -> contextlib.AbstractContextManager[object]:
    """Return a context in which new tensors are on a device; on the CPU they are in any case."""
    import torch

    return contextlib.nullcontext() if name == "cpu" else torch.device(name)
