"""Start of NCCL communicators, with a deadline.

NCCL's own start waits until all ranks are there, however long that takes, and its errors are obscure if two ranks have
one device. So the ranks meet over MPI first, with a deadline, and compare their devices and versions.
"""

import json
import socket
import threading
from typing import Any

import cupy
from cupy.cuda import nccl

from bnspec._errors import CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import error_text, ranks_text
from bnspec_backends.ranks.nccl.control import Control

__all__ = ["start", "version_text"]


def version_text() -> str:
    """Return NCCL's version at run time.

    Examples
    --------
    ``2.32.3``
    """
    number = int(nccl.get_version())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def start(control: Control) -> Any:
    """Return an NCCL communicator of the ranks of a control, each with its current device.

    Raises
    ------
    CommunicatorError
        Two ranks have one device, or different versions of NCCL; or this rank has no device, or NCCL fails on it.
    CollectiveTimeout
        NCCL did not start before the deadline.
    """
    number = control.members[control.rank]
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:  # no driver, mostly
        raise _no_device(number, str(error)) from error
    if not devices:
        raise _no_device(number, "none is visible")
    device = cupy.cuda.Device()
    mine = {"device": f"{socket.gethostname()} {device.pci_bus_id}", "version": int(nccl.get_version())}
    ranks = [json.loads(each) for each in control.gather(json.dumps(mine).encode(), "NCCL start")]
    _compare(ranks, control.members)
    identity = nccl.get_unique_id() if control.rank == 0 else b""
    identity = control.gather(identity, "NCCL id")[0]
    found: list[Any] = []

    def make() -> None:  # on a thread, since NCCL may never return
        try:
            with device:
                found.append(nccl.NcclCommunicator(len(ranks), identity, control.rank))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=make, name="bnspec NCCL start", daemon=True)
    thread.start()
    thread.join(control.deadline)
    if not found:
        raise refusal(
            CollectiveTimeout,
            "BN-SYNC-9",
            got=f"rank {number} waited {control.deadline:g} s for NCCL to begin on all ranks",
            expected="NCCLCommunicator(...) on every rank",
            do="Make it at the same place of the program on every rank, or give a longer deadline.",
        )
    if isinstance(found[0], BaseException):
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"NCCL {version_text()} did not begin on rank {number} ({error_text(found[0])})",
            expected="a communicator",
            do="Look at its own messages, with NCCL_DEBUG=INFO.",
        ) from found[0]
    return found[0]


def _no_device(rank: int, why: str) -> Exception:
    return refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=f"rank {rank} has no CUDA device ({why})",
        expected="a device of its own for every rank",
        do="Take the communicator 'mpi' for arrays in host memory.",
    )


def _compare(ranks: list[dict[str, Any]], members: tuple[int, ...]) -> None:
    """Refuse differences that NCCL would find later, or not at all."""
    versions = {each["version"] for each in ranks}
    if len(versions) > 1:
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"the ranks have NCCL {' and '.join(map(str, sorted(versions)))}",
            expected="one version",
            do="Install the same nvidia-nccl-cu13 on every machine.",
        )
    owners: dict[str, list[int]] = {}
    for rank, each in zip(members, ranks):
        owners.setdefault(each["device"], []).append(rank)
    shared = {device: owner for device, owner in owners.items() if len(owner) > 1}
    if shared:
        device, owner = next(iter(shared.items()))
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"{ranks_text(owner)} have the device {device}",
            expected="a device of its own for every rank",
            do="Call cupy.cuda.Device(number).use() with a number of its own for each rank of a machine.",
        )
