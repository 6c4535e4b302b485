"""Folding into the layer before or after: kernels of convolutions and linear layers that normalize too.

With scale s and shift t of `bnspec.fold`, and a layer ``z[o] = b[o] + sum over i, k of W[o,i,k]*x[i](k)`` with output
channels o, input channels i and elements k of the kernel:

    before:   s[o]*z[o] + t[o] = (b[o]*s[o] + t[o])  +  sum  (W[o,i,k]*s[o]) * x[i](k)
    after:    z of s*x + t     = (b[o] + sum W[o,i,k]*t[i])  +  sum  (W[o,i,k]*s[i]) * x[i](k)

The second is right only where every output is a sum over all k.

References
----------
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 3.2 (eq. 14).
"""

from typing import Any, NamedTuple

from bnspec._arrays import array_namespace
from bnspec._checks.arrays import floating, same_home
from bnspec._checks.scalars import switch
from bnspec._config import BatchNormConfig
from bnspec._errors import refusal
from bnspec._float64 import in_float64, rounded_to
from bnspec._fold import affine_in_float64, refuse_unbounded
from bnspec._kernel_layout import KernelLayout
from bnspec._types import Array, Params, RunningState

__all__ = ["FoldedKernel", "fold_into_following", "fold_into_preceding"]


class FoldedKernel(NamedTuple):
    """Kernel and bias of a layer that normalizes too, and what rounding its numbers changed.

    Beside what the evaluation itself rounds, output o of the layer differs by at most
    ``max(abs(x))*kernel_error[o] + bias_error[o]`` from the exact result, x being the layer's input.
    """

    kernel: Array  # the given kernel's shape and dtype
    bias: Array | None  # shape (O,), the given bias's dtype, or the kernel's; None where there is none to add
    kernel_error: Any  # shape (O,), NumPy's float64: sum over i and k of |kernel - its exact value|
    bias_error: Any  # shape (O,), NumPy's float64


def fold_into_preceding(
    kernel: Array,
    bias: Array | None,
    params: Params,
    state: RunningState,
    config: BatchNormConfig,
    *,
    output_axis: int,
    input_axis: int,
    groups: int = 1,
    name: str = "batch_norm",
) -> FoldedKernel:
    """Return the kernel and bias of a layer that also does the normalization behind it.

    ::

        kernel'[o,i,k] = kernel[o,i,k] * scale[o]
        bias'[o]       = bias[o]*scale[o] + shift[o]

    Parameters
    ----------
    kernel : array
        Of a linear layer, or a convolution of any rank, transposed or not, with any padding, stride and dilation.
    bias : array, shape (O,), or None
        None is 0.
    params, state, config, name
        Of the normalization, as in `fold`; it has O channels.
    output_axis, input_axis : int
        Axes of the kernel that hold the output and the input channels. torch: 0 and 1, in transposed convolutions 1 and
        0. keras and flax: -1 and -2, in keras's transposed convolutions -2 and -1. A linear layer of shape (out, in):
        0 and 1; (in, out): 1 and 0. A depthwise kernel (H, W, I, M) of keras: 3 and 2, in I groups.
    groups : int
        Of a grouped convolution. The lengths of the axes tell which of them holds the channels of one group only.

    Returns
    -------
    FoldedKernel
        Computed in float64 and rounded once to the dtypes of kernel and bias, with the errors that this causes.

    Raises
    ------
    TypeError, ValueError
        For arrays that do not belong together or break a clause, or if a number is not finite [BN-INF-1].
    RuntimeError
        Inside of a transformation [BN-DET-3].

    References
    ----------
    Jacob et al. 2018, eq. 14.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=2, like=np.zeros(1))
    >>> state = state._replace(mean=np.asarray([1.0, 2.0]), var=np.asarray([3.0, 0.0]))
    >>> kernel = np.asarray([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]])             # (out, in)
    >>> folded = bnspec.fold_into_preceding(kernel, None, params, state, config, output_axis=0, input_axis=1)
    >>> folded.kernel.tolist(), folded.bias.tolist()
    ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [-0.5, -2.0])
    """
    layout = KernelLayout(kernel, output_axis, input_axis, groups, name)
    scale, shift = affine_in_float64(params, state, config, name)
    same_home("kernel", kernel, "state.mean", state.mean, name)
    layout.settle(len(scale), 0)
    wide = layout.divide(in_float64(f"{name}: kernel", kernel)) * scale.reshape(layout.groups, -1, 1, 1)
    held = _bias(bias, kernel, layout, name)
    return _rounded(layout, wide, shift if held is None else held * scale + shift, kernel, bias)


def fold_into_following(
    kernel: Array,
    bias: Array | None,
    params: Params,
    state: RunningState,
    config: BatchNormConfig,
    *,
    output_axis: int,
    input_axis: int,
    groups: int = 1,
    zero_padding: bool,
    name: str = "batch_norm",
) -> FoldedKernel:
    """Return the kernel and bias of a layer that also does the normalization before it.

    ::

        kernel'[o,i,k] = kernel[o,i,k] * scale[i]
        bias'[o]       = bias[o] + sum over i, k of kernel[o,i,k]*shift[i]

    Parameters
    ----------
    kernel, bias, output_axis, input_axis, groups
        As in `fold_into_preceding`.
    params, state, config, name
        Of the normalization, as in `fold`; it has as many channels as the layer has inputs.
    zero_padding : bool
        Whether some outputs lack elements of the kernel: those at the border of a convolution that pads with zeros, and
        those of a transposed convolution, unless its kernel has one element and its stride is 1. With "in(p)" for the
        elements that output p has, the layer after the normalization computes::

            bias[o] + sum over i, k in(p) of kernel[o,i,k]*shift[i]  +  sum over i, k in(p) of kernel'[o,i,k]*x[i](p+k)

        whose first terms depend on p: no bias is right for all p. So this is refused, unless every shift is 0, where
        the scale alone is folded.

    Returns
    -------
    FoldedKernel
        As from `fold_into_preceding`.

    Raises
    ------
    TypeError, ValueError
        As `fold_into_preceding`; and with zero padding where a shift is not 0.
    RuntimeError
        Inside of a transformation [BN-DET-3].

    Notes
    -----
    Padding by reflection, by the nearest value or around the edge pads with normalized values, and is no obstacle. Nor
    is padding x itself, before the folded layer, with ``-shift/scale``, which the normalization takes to 0.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=2, like=np.zeros(1))
    >>> state = state._replace(mean=np.asarray([1.0, 2.0]), var=np.asarray([3.0, 0.0]))
    >>> axes = {"output_axis": 0, "input_axis": 1}
    >>> folded = bnspec.fold_into_following(
    ...     np.asarray([[2.0, 1.0]]), np.asarray([0.25]), params, state, config, **axes, zero_padding=False)
    >>> folded.kernel.tolist(), folded.bias.tolist()
    ([[1.0, 1.0]], [-2.75])
    """
    layout = KernelLayout(kernel, output_axis, input_axis, groups, name)
    padded = switch(f"{name}: zero_padding", zero_padding, "BN-INF-1", "It says whether an output may lack products.")
    scale, shift = affine_in_float64(params, state, config, name)
    same_home("kernel", kernel, "state.mean", state.mean, name)
    layout.settle(len(scale), 1)
    if padded and shift.any():
        raise refusal(
            ValueError,
            "BN-INF-1",
            got=f"{name}: shifts that are not 0, before a layer that pads with zeros",
            expected="outputs with every product, to which a shift adds the same number everywhere",
            do="Fold into the layer before, or pad x with -shift/scale first.",
        )
    wide, factors = layout.divide(in_float64(f"{name}: kernel", kernel)), (layout.groups, 1, -1, 1)
    held = _bias(bias, kernel, layout, name)
    if not padded:
        added = (wide * shift.reshape(factors)).sum((2, 3)).reshape(-1)
        held = added if held is None else held + added
    return _rounded(layout, wide * scale.reshape(factors), held, kernel, bias)


def _bias(bias: Array | None, kernel: Array, layout: KernelLayout, name: str) -> Any:
    """Return the bias as NumPy's float64, or None."""
    if bias is None:
        return None
    floating("bias", bias, name)
    same_home("kernel", kernel, "bias", bias, name)
    if tuple(bias.shape) != (layout.outputs,):
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{name}: bias has shape {tuple(bias.shape)}",
            expected=f"shape ({layout.outputs},), one number for each output channel",
            do="Check the axes of the kernel.",
        )
    return in_float64(f"{name}: bias", bias)


def _rounded(layout: KernelLayout, divided: Any, bias: Any, kernel: Array, like: Array | None) -> FoldedKernel:
    """Round what was computed in float64, and say by how much."""
    stored, error = rounded_to(layout.join(divided), kernel)
    kernel_error = layout.divide(error).sum((2, 3)).reshape(-1)
    refuse_unbounded("folded kernels", kernel_error, str(kernel.dtype), layout.name)
    if bias is None:
        return FoldedKernel(stored, None, kernel_error, array_namespace(kernel_error).zeros_like(kernel_error))
    held, bias_error = rounded_to(bias, kernel if like is None else like)
    refuse_unbounded("folded biases", bias_error, str(held.dtype), layout.name)
    return FoldedKernel(stored, held, kernel_error, bias_error)
