"""JAX arrays, eager or inside ``jax.jit`` and ``jax.grad``.

Configurations and group layouts are static to JAX, so that what `batch_norm` saves may leave a jitted function.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy
import numpy

from bnspec import Kernels
from bnspec._static import tell_jax
from bnspec_backends import xla

__all__ = ["JaxBackend"]

tell_jax()


class JaxBackend:
    """Backend "jax". Without ``jax_enable_x64`` there is no float64, and sums have the rounding error of float32."""

    name = "jax"

    @property
    def kernels(self) -> Kernels:
        """Kernels of `bnspec_backends.xla`."""
        return xla.make(xla.in_use())

    @property
    def serving(self) -> str:
        """Name of the kernels in use."""
        return xla.in_use()

    def version(self) -> str:
        """Return JAX's version."""
        return str(jax.__version__)

    def devices(self) -> Sequence[str]:
        """Return every device that JAX sees."""
        return tuple(f"{d.platform}:{d.id}" for d in jax.devices())

    def dtypes(self) -> Sequence[str]:
        """Return all four dtypes, float64 only with x64 enabled."""
        wide = ("float64",) if jax.config.read("jax_enable_x64") else ()
        return ("bfloat16", "float16", "float32", *wide)

    def asarray(self, values: Any) -> Any:
        """Return a new array on JAX's default device."""
        return jax.numpy.asarray(numpy.array(values))

    def to_numpy(self, x: Any) -> Any:
        """Copy to the host."""
        return numpy.asarray(x)

    def synchronize(self) -> None:
        """Wait until the devices are idle."""
        jax.effects_barrier()
