"""Process groups of torch.distributed: whether one can be used, its ranks, and which backend serves which device."""

import os
from collections import Counter
from typing import Any, NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import distributed_c10d

from bnspec._errors import CommunicatorError, refusal

__all__ = ["Group", "default_group", "opened"]

#: Number of communicators that this process made of the same ranks; every one of the ranks counts alike.
_MADE: Counter[tuple[int, ...]] = Counter()

#: In a forked child, the default group of its parent, which is the rank.
_OF_PARENT: list[Any] = []


def _look() -> None:
    _OF_PARENT[:] = [dist.group.WORLD] if dist.is_initialized() else []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look)


class Group(NamedTuple):
    """Process group, as a communicator needs it.

    Attributes
    ----------
    rank, size : int
        The own rank in the group, and its size.
    backends : dict of str to str
        The group's backend for each type of device, such as ``{"cpu": "gloo", "cuda": "nccl"}``.
    store : torch.distributed.Store
        Store for one communicator of the group, with names that no other one has.
    server : torch.distributed.Store
        The default group's own store, whose server, if it is in this process, ends when nobody has it any more.
    """

    rank: int
    size: int
    backends: dict[str, str]
    store: Any
    server: Any


def default_group() -> Any:
    """Return torch's default process group.

    Raises
    ------
    CommunicatorError
        There is none, or it belongs to the process that this one was forked from.
    """
    if not dist.is_initialized():
        got = "torch.distributed has no process group"
        do = "Start the program with torchrun, and call torch.distributed.init_process_group() before the first layer."
    elif any(dist.group.WORLD is each for each in _OF_PARENT):
        got = f"process {os.getpid()} is a forked child of the rank that made torch's process group"
        do = "Let the child compute without a communicator, or make each rank a process of its own."
    else:
        return dist.group.WORLD
    raise refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=got,
        expected="the default group, whose ranks a TorchCommunicator joins",
        do=do,
    )


def opened(group: Any) -> Group:
    """Return what a new communicator needs of a process group, of which this process is a rank.

    Raises
    ------
    CommunicatorError
        torch.distributed was not initialized, the group was destroyed, or this process is none of its ranks.
    TypeError
        `group` is something else than a process group.
    """
    default = default_group()
    if group is None:
        group = default
    if group == dist.GroupMember.NON_GROUP_MEMBER:
        raise _no_member(f"rank {dist.get_rank()}")
    if not isinstance(group, dist.ProcessGroup):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"group is a {type(group).__module__}.{type(group).__name__}",
            expected="a torch.distributed.ProcessGroup, or None for the default group",
            do="Pass what torch.distributed.new_group() or DeviceMesh.get_group() returned.",
        )
    try:
        ranks = tuple(dist.get_process_group_ranks(group))
        config = str(dist.get_backend_config(group))
    except (KeyError, RuntimeError, ValueError) as error:
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"torch.distributed does not know the group ({error})",
            expected="a group that new_group() made and that was not destroyed",
            do="Make the communicator before the group is destroyed.",
        ) from error
    if dist.get_rank() not in ranks:
        raise _no_member(f"rank {dist.get_rank()} of the default group")
    _MADE[ranks] += 1
    name = f"bnspec/{','.join(map(str, ranks))}/{_MADE[ranks]}"
    server: Any = distributed_c10d._get_default_store()
    # A connection of its own: on the server's, somebody may be waiting.
    store = PrefixStore(name, server.clone() if hasattr(server, "clone") else server)
    backends = dict(each.split(":", 1) for each in config.split(",") if ":" in each)
    return Group(ranks.index(dist.get_rank()), len(ranks), backends, store, server)


def _no_member(who: str) -> Exception:
    return refusal(
        CommunicatorError,
        "BN-SYNC-9",
        got=f"{who} is not in the group",
        expected="a rank of the group",
        do="Make the communicator on the group's ranks only.",
    )
