"""Exact statistics of many batches: the moments of all elements, whatever batches they came in.

    n = sum n_b,    mean = sum n_b*mean_b / n,    m2 = sum m2_b + n_b*(mean_b - mean)^2

An average of batches, exponential or not, weighs a batch of 2 elements as one of 200, and an average of their variances
lacks the spread of their means. Merging the moments has neither fault.

References
----------
Wu, Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 ("PreciseBN"); Chan, Golub, LeVeque 1983, eq. 2.1.
"""

from typing import Any

from bnspec._arrays import array_namespace, beside, on_device_of, stop_gradient
from bnspec._checks import arguments, records
from bnspec._checks.arrays import same_home
from bnspec._checks.elements import moments_values
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._discovery import kernels_for
from bnspec._dtypes import dtype_name, statistics_dtype
from bnspec._errors import refusal
from bnspec._masks import mask_of
from bnspec._modes import transformation, untraced
from bnspec._population import finite_or_out, joined_groups, no_elements, one_each, state_of
from bnspec._types import Array, Groups, Moments, RunningState

__all__ = ["PreciseStatistics"]


class PreciseStatistics:
    """Collector of the exact statistics of many batches.

    After any batches, in any order and of any sizes, with n unmasked elements in a channel::

        mean = sum x / n,    var = sum (x - mean)^2 / (n - correction)

    Parameters
    ----------
    config : BatchNormConfig
        Its axis says where the channels are. Its correction, averaging and renorm say in which form a state remembers
        the statistics, nonfinite what becomes of a batch with NaN or infinity. Groups do not matter: every element
        counts, whatever ghost_source is.
    name : str
        The layer's name, for error texts.

    Raises
    ------
    TypeError
        For what is no configuration.

    Notes
    -----
    Between calls it holds four numbers for each channel in the arithmetic dtype, and counts as integers of Python.

    References
    ----------
    Wu, Johnson 2021, section 3; Chan, Golub, LeVeque 1983, eq. 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    >>> p = bnspec.PreciseStatistics(config)
    >>> p.update(np.asarray([[1.0], [2.0], [6.0], [7.0]]))
    >>> p.update(np.asarray([[4.0]]))
    >>> state = p.state()
    >>> state.mean.tolist(), state.var.tolist()
    ([4.0], [5.2])
    """

    def __init__(self, config: BatchNormConfig, *, name: str = "batch_norm") -> None:
        records.configuration(config, name)
        self.config = config
        self.name = name
        self._counts: list[int] = []  # elements: one number for all channels, or one for each
        self._rows: Array | None = None  # shape (1, 4*C), arithmetic dtype: count, mean, mean_low, m2
        self._like: Array | None = None  # shape (0,); the state is of its kind
        self._updates = 0

    @property
    def count(self) -> tuple[int, ...]:
        """Elements so far: one number for all channels, or one for each; empty before the first batch."""
        return tuple(self._counts)

    @on_device_of("x")
    def update(
        self, x: Array, *, mask: Array | None = None, lengths: Array | None = None, stats: Moments | None = None
    ) -> None:
        """Add the elements of a batch.

        Parameters
        ----------
        x : array, shape (N, ..., C, ...)
            float16, bfloat16, float32 or float64, rank >= 2; also of no sample.
        mask : array of bool, optional
            As in `batch_norm`: False elements do not count.
        lengths : array of int, shape (N,), optional
            As in `batch_norm`.
        stats : Moments, optional
            Moments of x that `batch_norm` returned, with the same mask; all groups count. They are computed where they
            are absent. Moments that ranks have joined are those of all ranks: then call `state` without a communicator.

        Raises
        ------
        TypeError, ValueError
            For input that breaks a clause, or that does not fit the batches before; nothing is changed then.
        RuntimeError
            Inside of a transformation, such as `jax.jit`: the collector would keep what exists only there [BN-DET-3].
        FloatingPointError
            For statistics that are not finite under ``nonfinite="raise"``. Under "skip" such a channel of a batch does
            not count [BN-RUN-10].

        Examples
        --------
        >>> import numpy as np
        >>> import bnspec
        >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=2)
        >>> params, _ = bnspec.init(config, channels=1, like=np.zeros(1))
        >>> x = np.asarray([[1.0], [3.0], [5.0], [7.0]])
        >>> y, stats, _ = bnspec.batch_norm(x, params, config)      # two groups of two samples
        >>> p = bnspec.PreciseStatistics(config)
        >>> p.update(x, stats=stats)
        >>> p.count, p.state().var.tolist()
        ((4,), [5.0])
        """
        name = self.name
        axis = untraced(arguments.channel_axis, x, self.config, name)
        untraced(arguments.company, x, axis, mask, lengths, None, name)
        self._refuse_transformation(x)
        channels = int(x.shape[axis])
        self._refuse_others(x, channels)
        x, kernels = stop_gradient(x), kernels_for(x)
        if stats is None:
            stats = kernels.moments(x, Groups(axis, 1), mask_of(x, axis, mask, lengths))
        else:
            self._refuse_moments(stats, x, channels)
            stats = Moments(*map(stop_gradient, stats))
        counts, rows = joined_groups(stats, kernels.merge)
        self._refuse_transformation(rows)
        state_dtype = statistics_dtype(x)
        if self.config.nonfinite != "propagate":
            counts, rows = finite_or_out(counts, rows, state_dtype, self.config, name)
        held = any(counts)
        wider = self._like is None or dtype_name(state_dtype) == "float64"
        like = array_namespace(x).zeros((0,), dtype=state_dtype, **beside(x)) if wider else self._like
        if self._rows is not None:
            length = len(counts) if len(counts) == len(self._counts) else channels
            counts = [a + b for a, b in zip(one_each(counts, length), one_each(self._counts, length), strict=True)]
            rows = kernels.merge(self._rows, rows, 1)
        self._counts, self._rows, self._like = counts, rows, like
        self._updates += held

    def state(self, *, comm: Communicator | None = None) -> RunningState:
        """Return the running state that remembers the exact statistics, in the form of the configuration.

        With t the number of batches that held elements, of all ranks together:

        ==============  =============================================================================================
        "exponential"   mean, var
        "cumulative"    mean, var, and count = t
        "pooled"        mean, var, and count = n, the elements
        "debiased"      mean*(1 - decay^t), var*(1 - decay^t), and count = t, so that `running_statistics` returns mean
                        and var
        with renorm     also stddev = sqrt(var + epsilon), which renorm's own reference of either form equals
        ==============  =============================================================================================

        Parameters
        ----------
        comm : Communicator, optional
            Joins the elements of all ranks, in one message; ranks may have had different numbers of batches and
            elements. A rank without elements calls `update` once with a batch of no sample. Elements have the same
            weight whatever sync_weighting is.

        Returns
        -------
        RunningState
            New arrays of shape (C,), float64 where a batch was, else float32; the same bits on every rank.

        Raises
        ------
        ValueError
            If a channel has no element, or no more than the correction [BN-RUN-4]: ``single_value="floor"`` divides by
            1 there, and "keep" has no older variance to keep.
        CommunicatorError
            On every rank, when the ranks do not meet in the same call [BN-SYNC-9].
        """
        arguments.communicator(comm, self.name)
        if self._rows is None:
            raise no_elements(self.name, "no batch")
        return state_of(self._rows, self._counts, self._updates, self._like, self.config, comm, self.name)

    def _refuse_transformation(self, *arrays: Array) -> None:
        """Refuse arrays without values: under ``jax.jit`` it shows in what is made of them, if not in them."""
        if (found := transformation(*arrays)) is not None:
            raise refusal(
                RuntimeError,
                "BN-DET-3",
                got=f"{self.name}: precise statistics inside {found}",
                expected="arrays with values, since they are kept",
                do="Return bnspec.moments from there, and update outside with stats=.",
            )

    def _refuse_others(self, x: Array, channels: int) -> None:
        """Refuse a batch whose statistics cannot be merged with those before."""
        if self._rows is None:
            return
        same_home("the batches before", self._rows, "x", x, self.name)
        before = int(self._rows.shape[1]) // 4
        if channels != before:
            raise refusal(
                ValueError,
                "BN-MOM-7",
                got=f"{self.name}: x of shape {tuple(x.shape)} has {channels} channels on axis {self.config.axis}",
                expected=f"{before} channels, as the batches before",
                do="Collect the statistics of each layer by an object of its own.",
            )

    def _refuse_moments(self, stats: Any, x: Array, channels: int) -> None:
        """Refuse what are no moments of x."""
        records.moments(stats, self.name)
        same_home("x", x, "stats.m2", stats.m2, self.name)
        moments_values(stats, self.name)
        if int(stats.m2.shape[1]) != channels:
            raise refusal(
                ValueError,
                "BN-MOM-7",
                got=f"{self.name}: stats.m2 has shape {tuple(stats.m2.shape)}",
                expected=f"(G, {channels}), for x of shape {tuple(x.shape)}",
                do="Pass what bnspec.batch_norm returned for this x.",
            )
