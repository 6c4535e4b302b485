"""Arrays of devices: gathered by NCCL where they are, without a wait of the host.

The hosts have compared what they are about to gather before NCCL is called, so that all ranks gather as much of the
same dtype. Of a rank that dies after that, NCCL's own timeout takes care, as everywhere in torch.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from bnspec._communicator import Signature
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec_backends.ranks.facts import signature_facts
from bnspec_backends.ranks.headers import About, of_facts

__all__ = ["DeviceGathers", "about_carried", "carrier"]


def carrier(payload: Any, signature: Signature, backends: dict[str, str]) -> str:
    """Return "nccl" if the payload stays on its device, and "host" if it travels through host memory.

    Raises
    ------
    TypeError
        The group has NCCL only, and the payload is no tensor on a device; or a CUDA graph is being captured.
    """
    kind = payload.device.type if isinstance(payload, torch.Tensor) else "cpu"
    if kind != "cpu" and backends.get(kind) == "nccl":
        if torch.cuda.is_current_stream_capturing():
            raise refusal(
                TypeError,
                "BN-SYNC-9",
                got=f"layer {signature.layer!r} on a stream that is being captured",
                expected="a stream that runs: the ranks compare their layers on the host, which a graph would not do",
                do="Capture the passes between the collectives, or call the layer outside of the graph.",
            )
        return "nccl"
    if "cpu" in backends or "nccl" not in backends.values():
        return "host"
    name = f"{type(payload).__module__.split('.')[0]}.{type(payload).__name__}"
    raise refusal(
        TypeError,
        "BN-SYNC-9",
        got=f"the payload of layer {signature.layer!r} is a {name} on {getattr(payload, 'device', 'the host')}, and "
        f"the group has {', '.join(f'{value} for {key}' for key, value in backends.items())}",
        expected="a torch tensor on a CUDA device",
        do='Move x to the device, or make the group with backend="cpu:gloo,cuda:nccl".',
    )


@functools.lru_cache(maxsize=4096)
def about_carried(signature: Signature, shape: tuple[int, ...], dtype: Any) -> About:
    """Return the facts of a collective whose payload NCCL carries."""
    like = np.broadcast_to(np.zeros((), dtype_name(dtype)), shape)
    return of_facts({**signature_facts(like, signature), "payload carrier": "nccl"})


class DeviceGathers:
    """NCCL group of the ranks of one communicator, made when the first payload needs it.

    Parameters
    ----------
    make : callable, optional
        Makes a torch.distributed backend of a store, rank, size and seconds; NCCL's by default.
    """

    def __init__(
        self, store: Any, rank: int, size: int, seconds: float, make: Callable[..., Any] | None = None
    ) -> None:
        self._given = store, rank, size, seconds
        self._make = _nccl if make is None else make
        self._group: Any = None

    def gather(self, payload: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors of all ranks, which have one shape and dtype; the values follow on the current stream."""
        size = self._given[2]
        if size == 1:
            return [payload]
        if self._group is None:
            self._group = self._make(*self._given)
        own = payload.detach().contiguous()
        flat = torch.empty(size * own.numel(), dtype=own.dtype, device=own.device)
        self._group._allgather_base(flat, own.reshape(-1)).wait()
        return list(flat.view(size, *own.shape).unbind(0))

    def close(self) -> None:
        """End the group."""
        if self._group is not None:
            self._group.shutdown()
        self._group = None


def _nccl(store: Any, rank: int, size: int, seconds: float) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=seconds)
    return dist.ProcessGroupNCCL(PrefixStore("nccl", store), rank, size, options)
