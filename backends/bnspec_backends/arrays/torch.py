"""torch tensors on the CPU or a CUDA device, with torch's automatic differentiation.

Derivatives of any order work: the first is the specification's own, by the kernels that serve the call, and from there
on torch differentiates the specification's formulas. Users who want no graph call bnspec's explicit derivatives.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import torch

from bnspec import Kernels
from bnspec_backends import cpu
from bnspec_backends.torch_kernels import TorchKernels

__all__ = ["TorchBackend"]


class TorchBackend:
    """Backend "torch"; new tensors go to torch's default device."""

    name = "torch"

    @property
    def kernels(self) -> Kernels:
        """Kernels of the specification; for tensors on the CPU compiled ones, if `bnspec_backends.cpu` has them."""
        if cpu.in_use() != "compiled":
            return TorchKernels()
        from bnspec_backends.cpu.torch_kernels import TorchCpuKernels

        return TorchCpuKernels()

    @property
    def serving(self) -> str:
        """Name of the kernels in use, and for which tensors where others have other ones."""
        return "compiled (cpu)" if cpu.in_use() == "compiled" else "specification"

    def version(self) -> str:
        """Return torch's version."""
        return str(torch.__version__)

    def devices(self) -> Sequence[str]:
        """Return the host and every CUDA device."""
        return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))

    def dtypes(self) -> Sequence[str]:
        """Return all four dtypes."""
        return ("bfloat16", "float16", "float32", "float64")

    def asarray(self, values: Any) -> Any:
        """Return a new tensor on torch's default device."""
        values = numpy.array(values)
        if values.dtype.name == "bfloat16":  # torch reads the bits, not ml_dtypes' type
            return torch.from_numpy(values.view(numpy.uint16)).view(torch.bfloat16).to(torch.get_default_device())
        return torch.from_numpy(values).to(torch.get_default_device())

    def to_numpy(self, x: Any) -> Any:
        """Copy to the host."""
        x = x.detach().cpu()
        if x.dtype == torch.bfloat16:
            import ml_dtypes

            return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return x.numpy()

    def synchronize(self) -> None:
        """Wait for the CUDA devices, if any was used."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
