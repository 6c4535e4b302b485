"""Layout of kernels: the axes of output and input channels, in groups, as any framework orders them.

With g groups, O outputs and I inputs, one of the two axes holds the channels of all groups and the other those of one:
(O, I/g) in a convolution of torch, (I, O/g) in a transposed one. Here a kernel is divided into (g, O/g, I/g, K), the K
elements being those of all other axes, so that no formula needs to know.
"""

from typing import Any

from bnspec._checks.arrays import floating
from bnspec._checks.scalars import integer
from bnspec._errors import refusal
from bnspec._types import Array

__all__ = ["KernelLayout"]


class KernelLayout:
    """Layout of a kernel: which axes hold the channels, and which of them those of all groups.

    Parameters
    ----------
    kernel : array
        Of rank >= 2.
    output_axis, input_axis : int
        Different axes; negative ones count from the end.
    groups : int
        Number of groups of channels, >= 1.
    name : str
        For error texts.

    Examples
    --------
    >>> import numpy as np
    >>> layout = KernelLayout(np.zeros((6, 2, 3, 3)), 0, 1, 2, "conv")     # of torch: 6 outputs, 2 inputs in each group
    >>> layout.settle(4, side=1)                                           # 4 inputs in all
    >>> layout.divide(np.zeros((6, 2, 3, 3))).shape
    (2, 3, 2, 9)
    """

    def __init__(self, kernel: Array, output_axis: int, input_axis: int, groups: int, name: str) -> None:
        floating("kernel", kernel, name)
        self.name, self.shape, rank = name, tuple(kernel.shape), int(kernel.ndim)
        do = "torch's Conv2d has 0 and 1, its ConvTranspose2d 1 and 0; layers of keras and flax have -1 and -2."
        axes = [
            integer(f"{name}: {what}", v, -rank, "BN-SHAPE-2", do)
            for what, v in (("output_axis", output_axis), ("input_axis", input_axis))
        ]
        self.groups = integer(f"{name}: groups", groups, 1, "BN-SHAPE-4", "Pass 1 for a kernel of one group.")
        if rank < 2 or max(axes) >= rank or axes[0] % rank == axes[1] % rank:
            raise refusal(
                ValueError,
                "BN-SHAPE-2",
                got=f"{name}: output_axis={output_axis} and input_axis={input_axis} for a kernel of shape {self.shape}",
                expected="two different axes of a kernel of rank >= 2",
                do=do,
            )
        self.axes = [a % rank for a in axes]
        self.order = (*self.axes, *(a for a in range(rank) if a not in self.axes))

    def settle(self, channels: int, side: int) -> None:
        """Find which axis holds the channels of all groups; side is 0 for outputs and 1 for inputs."""
        lengths = [self.shape[a] for a in self.axes]
        if lengths[side] == channels:
            self.whole = side
        elif lengths[side] * self.groups == channels:
            self.whole = 1 - side
        else:
            self.whole = -1
        if self.whole < 0 or lengths[self.whole] % self.groups:
            what = ("output", "input")[side]
            raise refusal(
                ValueError,
                "BN-SHAPE-4",
                got=f"{self.name}: a kernel of shape {self.shape} with {lengths[side]} on its {what} axis, in "
                f"{self.groups} groups, beside a normalization of {channels} channels",
                expected=f"{channels} {what} channels, of all groups or of one, and as many in each group",
                do="Check the axes and the number of groups.",
            )
        self.parts = [n // self.groups if k == self.whole else n for k, n in enumerate(lengths)]
        self.outputs = self.parts[0] * self.groups

    def divide(self, kernel: Any) -> Any:
        """Return a kernel of NumPy as (groups, outputs of a group, inputs of a group, elements)."""
        outputs, inputs = self.parts
        moved = kernel.transpose(self.order)
        if self.whole == 0:
            return moved.reshape(self.groups, outputs, inputs, -1)
        return moved.reshape(outputs, self.groups, inputs, -1).transpose(1, 0, 2, 3)

    def join(self, divided: Any) -> Any:
        """Undo `divide`."""
        moved = divided if self.whole == 0 else divided.transpose(1, 0, 2, 3)
        moved = moved.reshape([self.shape[a] for a in self.order])
        return moved.transpose([self.order.index(a) for a in range(len(self.order))])
