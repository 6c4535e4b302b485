"""Calls of kernels: the arrays and numbers that launches share, and what is the same in every call like it."""

import functools
from collections.abc import Sequence
from typing import Any

import cupy
import numpy

from bnspec_backends.cuda import compiling
from bnspec_backends.cuda.arithmetic import arithmetic_type
from bnspec_backends.cuda.arrays import KINDS, Kind, Source
from bnspec_backends.cuda.counters import counters
from bnspec_backends.cuda.launching import CALL, Launcher, make_current
from bnspec_backends.cuda.plan import VECTOR_BYTES, Plan, plan_for, vector_width
from bnspec_backends.cuda.workspace import counters_for
from bnspec_backends.layout import Layout

__all__ = ["Call"]

#: Numbers that a kernel which sums leaves of each part of a channel.
_NUMBERS = {"moments": 4, "grad_sums": 2}


class _Prepared:
    """Plan, and the members of a call that do not change: for arrays of the same layouts, dtypes and alignment."""

    def __init__(self, layouts: Sequence[Layout | None], kinds: Sequence[Kind | None], offsets: Sequence[int]) -> None:
        x = layouts[0]
        assert x is not None
        used = [(v, kind.size, offset) for v, kind, offset in zip(layouts, kinds, offsets, strict=True) if v and kind]
        columns, vector = vector_width(*zip(*used, strict=True))
        sizes = [size for _, size, _ in used]
        self.plan: Plan = plan_for(x.groups, x.rows, x.channels, x.run, columns, vector, max(sizes))
        self.members: dict[str, Any] = dict.fromkeys(CALL.names, 0) | {
            "groups": x.groups, "rows": x.rows, "channels": x.channels, "run": x.run,
            "lanes": self.plan.lanes, "width": self.plan.width, "team": self.plan.team,
        }  # fmt: skip
        for name, v in zip(("x", "dy", "out"), layouts, strict=True):
            if v is not None:
                self.members |= {f"{name}_row": v.row_stride, f"{name}_channel": v.channel_stride}
        self._types = tuple(kind.type_name for kind in kinds[:2] if kind is not None)
        self._elements = x.elements
        self._functions: dict[tuple[str, str, int], int] = {}

    def function(self, name: str, flag: str, device: int) -> int:
        """Return the handle of a kernel for these arrays."""
        found = self._functions.get((name, flag, device))
        if found is None:
            arithmetic = arithmetic_type(name, flag, self._types, self._elements, device)
            arguments = [*self._types, self.plan.walk, str(self.plan.unroll), flag, *filter(None, [arithmetic])]
            found = self._functions[name, flag, device] = compiling.kernel(f"{name}<{', '.join(arguments)}>")
        return found


#: More than enough for a model's layers, in training and inference.
prepared = functools.lru_cache(maxsize=4096)(_Prepared)


class Call:
    """Arrays of x's shape that one or two launches share, on the current stream of the current device.

    Parameters
    ----------
    x : Source
    dy, out : Source, optional
    mask : tuple of array, int and int, optional
        A mask as `spread_mask` returns it.
    counts : int
        Numbers of elements of a group: 1, or one for each channel.
    """

    def __init__(
        self,
        x: Source,
        *,
        dy: Source | None = None,
        out: Source | None = None,
        mask: tuple[Any, int, int] | None = None,
        counts: int = 1,
    ) -> None:
        given = (x, dy, out)
        self.prepared = prepared(
            tuple(None if v is None else v.layout for v in given),
            # What is written has x's dtype, and the kernels are told once.
            tuple(None if v is None else KINDS[v.array.dtype] for v in given),
            tuple(0 if v is None else v.array.data.ptr % VECTOR_BYTES for v in given),
        )
        self.layout = x.layout
        self.masked = "false" if mask is None else "true"
        self.device, self.stream = cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr
        # Memory that nobody holds may be given to another thread: arrays are held as long as their addresses are.
        self._held: list[Any] = []
        self._members = self.prepared.members.copy()
        self.put(x=x.array)
        self.set(counts=counts)
        if dy is not None:
            self.put(dy=dy.array)
        if out is not None:
            self.put(out=out.array)
        if mask is not None:
            self.put(mask=mask[0])
            self.set(mask_row=mask[1], mask_channel=mask[2])

    def put(self, **arrays: Any) -> None:
        """Set members to the addresses of arrays; to 0 for None."""
        for name, v in arrays.items():
            if v is not None:
                self._held.append(v)
                self._members[name] = v.data.ptr

    def set(self, **numbers: float) -> None:
        """Set members to numbers."""
        self._members.update(numbers)

    def parameter(self, name: str, v: Any) -> None:
        """Set the members of an array of shape (C,) of any floating dtype; none for None."""
        if v is not None:
            kind = KINDS[v.dtype]
            self._held.append(v)
            members = self._members
            members[name] = v.data.ptr
            members[f"{name}_stride"] = v.strides[0] // kind.size
            members[f"{name}_dtype"] = kind.number

    def launch(self, *kernels: tuple[str, str]) -> None:
        """Queue kernels, one after another: each by its name and its last template argument, "true" or "false"."""
        make_current(self.device)
        plan, numbers = self.prepared.plan, max(_NUMBERS.get(name, 0) for name, _ in kernels)
        if numbers and plan.parts > 1:
            size = self.layout.groups * self.layout.channels * plan.parts * numbers
            self.put(partial=cupy.empty((size,), numpy.float64))
            self.set(counters=counters_for(plan.blocks, self.device, self.stream))
        launcher = Launcher(self._members)
        for name, flag in kernels:
            own = _NUMBERS.get(name, 0)
            grid = plan.blocks, plan.parts if own else plan.tiles
            shared = plan.shared_bytes(own) if own else 0
            function = self.prepared.function(name, flag, self.device)
            counters.launches += 1
            launcher.launch(function, grid, plan.threads, shared, self.stream)
