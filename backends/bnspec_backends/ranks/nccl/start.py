"""Making NCCL communicators: nobody waits for ever for a rank that does not come.

NCCL's own start waits until all ranks are there, however long that takes, and fails oddly where two ranks have one
device. So the ranks meet over MPI first, with a deadline, and compare their devices and versions.
"""

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import cupy
from cupy.cuda import nccl

from bnspec._errors import CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import error_text, ranks_text
from bnspec_backends.ranks.nccl.control import Control

__all__ = ["begin", "late", "version_text", "within"]

#: NCCL's version from which two ranks may have one device, and the variable that lets them.
_SHARING, _SHARE = 23000, "NCCL_MULTI_RANK_GPU_ENABLE"


def version_text() -> str:
    """NCCL's version at run time.

    Examples
    --------
    ``2.32.3``
    """
    number = int(nccl.get_version())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def begin(control: Control, rank: int, share: bool) -> Any:
    """An NCCL communicator of the ranks of a control, each with the current device.

    Raises
    ------
    CommunicatorError
        Two ranks have one device without `share`, or their versions of NCCL differ; or this one has no device, or NCCL
        fails on it.
    CollectiveTimeout
        NCCL did not begin before the deadline.
    """
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:  # no driver, mostly
        raise _no_device(control.members[rank], str(error)) from error
    if not devices:
        raise _no_device(control.members[rank], "none is visible")
    device = cupy.cuda.Device()
    mine = {"device": f"{socket.gethostname()} {device.pci_bus_id}", "version": int(nccl.get_version())}
    ranks = [json.loads(each) for each in control.gather(json.dumps(mine).encode(), "NCCL start")]
    _compare(ranks, control.members, share)
    identity = nccl.get_unique_id() if rank == 0 else b""
    identity = control.gather(identity, "NCCL id")[0]
    if share:
        os.environ.setdefault(_SHARE, "1")

    def make() -> Any:
        with device:
            return nccl.NcclCommunicator(len(ranks), identity, rank)

    return within(control.deadline, make, f"rank {control.members[rank]}")


def _no_device(rank: int, why: str) -> Exception:
    return refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=f"rank {rank} has no CUDA device ({why})",
        expected="a device of its own for every rank",
        do="Take the communicator 'mpi' for arrays in host memory.",
    )


def _compare(ranks: list[dict[str, Any]], members: tuple[int, ...], share: bool) -> None:
    """What NCCL would find out later, or not at all."""
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
    if shared and not (share and versions.pop() >= _SHARING):
        device, owner = next(iter(shared.items()))
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"{ranks_text(owner)} have the device {device}",
            expected="a device of its own for every rank",
            do="Call cupy.cuda.Device(number).use() with a number of its own for each rank of a machine; NCCL 2.30 and "
            f"newer may let ranks share one (share_device=True), and this is {version_text()}.",
        )


def within(deadline: float, make: Callable[[], Any], who: str) -> Any:
    """What a call of NCCL's that may never return gives, if it does in time."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(make())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call, name="bnspec NCCL start", daemon=True)
    thread.start()
    thread.join(deadline)
    if not found:
        raise late(who, deadline)
    if isinstance(found[0], BaseException):
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"NCCL {version_text()} did not begin on {who} ({error_text(found[0])})",
            expected="a communicator",
            do="Look at its own messages, with NCCL_DEBUG=INFO.",
        ) from found[0]
    return found[0]


def late(who: str, deadline: float) -> Exception:
    """The error of a rank that waited in vain for NCCL to begin."""
    return refusal(
        CollectiveTimeout,
        "BN-SYNC-9",
        got=f"{who} waited {deadline:g} s for NCCL to begin on all ranks",
        expected="NCCLCommunicator(...) on every rank",
        do="Make it at the same place of the program on every rank, or give a longer deadline.",
    )
