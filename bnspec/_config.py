"""The choices on which implementations of batch normalization differ, as one validated record.

Nothing in this file touches an array. The options that frameworks disagree on most (the channel axis, epsilon,
decay and the variance that feeds the running state) have no default: whoever builds a configuration
writes it down, or takes a framework's row from `bnspec.dialects`.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from operator import le
from typing import Any, Literal, get_args

from bnspec._checks.scalars import integer, one_of, plain, real, shown, switch
from bnspec._errors import refusal
from bnspec._static import static, tell_jax

__all__ = [
    "Averaging",
    "BatchNormConfig",
    "GhostSource",
    "NonFinite",
    "Renorm",
    "RenormForm",
    "SingleValue",
    "SyncWeighting",
]

Averaging = Literal["exponential", "cumulative", "pooled", "debiased"]
GhostSource = Literal["first", "mean", "merged", "sequential"]
SyncWeighting = Literal["count", "rank"]
SingleValue = Literal["raise", "keep", "floor"]
NonFinite = Literal["propagate", "skip", "raise"]
RenormForm = Literal["tensorpack", "paper"]

#: The options that are words, each with those it knows and the clause that describes them.
_WORDS = {
    "averaging": (get_args(Averaging), "BN-RUN-1"),
    "ghost_source": (get_args(GhostSource), "BN-RUN-8"),
    "sync_weighting": (get_args(SyncWeighting), "BN-SYNC-8"),
    "single_value": (get_args(SingleValue), "BN-RUN-4"),
    "nonfinite": (get_args(NonFinite), "BN-RUN-10"),
}


@dataclass(frozen=True, kw_only=True)
class Renorm:
    """Batch renormalization (Ioffe 2017): limits of the corrections and where their reference lives.

    Attributes
    ----------
    form : {"tensorpack", "paper"}
        "tensorpack" (TensorFlow's) keeps a reference mean and deviation of its own, averaged with
        `decay`; "paper" takes the running mean and deviation for both [BN-RENORM-5, BN-RENORM-6].
    rmax : float
        r is clipped to [1/rmax, rmax]; >= 1.
    dmax : float
        d is clipped to [-dmax, dmax]; >= 0.
    decay : float
        Weight in [0, 1] that the old reference keeps; only the "tensorpack" form uses it.
    """

    form: RenormForm = "tensorpack"
    rmax: float
    dmax: float
    decay: float = 0.99

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put("form", one_of("form", self.form, get_args(RenormForm), "BN-RENORM-1"))
        for field, least in (("rmax", 1), ("dmax", 0)):
            expected, do = f"a finite number >= {least}", f"Use {field}={least} for no correction."
            put(field, real(field, getattr(self, field), partial(le, least), expected, "BN-RENORM-9", do))
        put("decay", _decay(self.decay, "BN-RENORM-5"))


@static
@dataclass(frozen=True, kw_only=True)
class BatchNormConfig:
    """Everything that determines what a batch-normalization layer computes.

    Attributes
    ----------
    axis : int
        Channel axis of x; negative counts from the end [BN-SHAPE-2].
    epsilon : float
        Added to the variance inside the square root; >= 0 [BN-NORM-1]. Where variance and epsilon are 0, y is not
        finite.
    decay : float
        Weight in [0, 1] that the *old* running value keeps [BN-RUN-1].
    correction : {0, 1}
        Subtracted from the count in the divisor of the variance that feeds the running state;
        normalization always divides by the count itself [BN-RUN-3].
    averaging : {"exponential", "cumulative", "pooled", "debiased"}
        How batches enter the running state [BN-RUN-1, 5, 6, 7].
    center, scale : bool
        Whether beta and gamma exist [BN-NORM-2].
    virtual_batch_size : int or None
        Samples per ghost group, None for one group [BN-GRP-2].
    ghost_source : {"first", "mean", "merged", "sequential"}
        Which groups feed the running state [BN-RUN-8].
    sync_weighting : {"count", "rank"}
        "count" joins ranks exactly; "rank" gives each rank that holds data the same weight, as
        Horovod's and flax's layers do [BN-SYNC-1, BN-SYNC-8].
    renorm : Renorm or None
        Batch renormalization [BN-RENORM-1].
    single_value : {"raise", "keep", "floor"}
        Meaning of a count of 1 for correction=1: an error; the running variance stays; or the
        divisor is max(count - 1, 1), TensorFlow's and Chainer's rule [BN-RUN-4].
    nonfinite : {"propagate", "skip", "raise"}
        Effect of a NaN or infinite batch statistic on the running state [BN-RUN-10].

    Raises
    ------
    TypeError, ValueError
        For a field of the wrong type or outside its range, naming the field and the clause.

    Examples
    --------
    >>> config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    >>> BatchNormConfig.from_json(config.to_json()) == config
    True
    """

    axis: int
    epsilon: float
    decay: float
    correction: Literal[0, 1]
    averaging: Averaging = "exponential"
    center: bool = True
    scale: bool = True
    virtual_batch_size: int | None = None
    ghost_source: GhostSource = "first"
    sync_weighting: SyncWeighting = "count"
    renorm: Renorm | None = None
    single_value: SingleValue = "raise"
    nonfinite: NonFinite = "propagate"

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put(
            "axis",
            integer("axis", self.axis, None, "BN-SHAPE-2", "Pass the position of the channel axis, such as 1 or -1."),
        )
        put(
            "epsilon",
            real(
                "epsilon",
                self.epsilon,
                lambda v: v >= 0,
                "a finite number >= 0",
                "BN-NORM-1",
                "Usual values are 1e-5 and 1e-3.",
            ),
        )
        put("decay", _decay(self.decay, "BN-RUN-1"))
        correction = plain(self.correction)
        if type(correction) is not int or correction not in (0, 1):
            raise refusal(
                ValueError,
                "BN-RUN-3",
                got=f"correction is {shown(self.correction)}",
                expected="0 or 1",
                do="0 feeds the population variance to the running state, 1 the Bessel-corrected one.",
            )
        put("correction", correction)
        for field in ("center", "scale"):
            do = "It says whether the parameter exists."
            put(field, switch(field, getattr(self, field), "BN-NORM-2", do))
        if self.virtual_batch_size is not None:
            size = integer("virtual_batch_size", self.virtual_batch_size, 1, "BN-GRP-3", "Pass None for one group.")
            put("virtual_batch_size", size)
        for field, (words, clause) in _WORDS.items():
            put(field, one_of(field, getattr(self, field), words, clause))
        if self.renorm is not None and not isinstance(self.renorm, Renorm):
            raise refusal(
                TypeError,
                "BN-RENORM-1",
                got=f"renorm is {shown(self.renorm)}",
                expected="a bnspec.Renorm or None",
                do="Write bnspec.Renorm(rmax=..., dmax=...).",
            )
        if self.renorm is not None and self.averaging != "exponential":
            raise refusal(
                ValueError,
                "BN-RENORM-5",
                got=f"renorm with averaging={self.averaging!r}",
                expected='averaging="exponential"',
                do="No published form of renorm averages otherwise.",
            )
        if self.averaging == "debiased" and self.decay == 1:
            raise refusal(
                ValueError,
                "BN-RUN-7",
                got='averaging="debiased" with decay=1',
                expected="decay < 1",
                do="1 - decay^t would stay 0, so there is nothing to divide by.",
            )
        if self.correction == 1 and self.single_value == "keep" and self.averaging in ("cumulative", "debiased"):
            raise refusal(
                ValueError,
                "BN-RUN-4",
                got=f'single_value="keep" with averaging={self.averaging!r} and correction=1',
                expected='single_value "raise" or "floor"',
                do="The update counter would count batches whose variance was never averaged.",
            )
        if self.averaging == "pooled" and self.ghost_source == "mean" and self.virtual_batch_size is not None:
            raise refusal(
                ValueError,
                "BN-RUN-6",
                got='averaging="pooled" with ghost_source="mean"',
                expected='ghost_source "first", "merged" or "sequential"',
                do="A mean of variances belongs to no set of elements, so it cannot be pooled.",
            )
        put("_text", json.dumps(dataclasses.asdict(self)))
        tell_jax()

    def to_json(self) -> str:
        """Return the configuration as JSON; `from_json` gives back an equal one."""
        return self.text

    @classmethod
    def from_json(cls, text: str) -> "BatchNormConfig":
        """Build a configuration from what `to_json` wrote; unknown fields are an error."""
        try:
            fields = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise _no_configuration(f"text that is no JSON ({error})") from error
        if not isinstance(fields, dict):
            raise _no_configuration(f"JSON that holds a {type(fields).__name__}")
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise refusal(
                ValueError,
                "BN-STATE-6",
                got=f"a configuration with the unknown fields {unknown}",
                expected=f"only {sorted(f.name for f in dataclasses.fields(cls))}",
                do="It may come from a newer bnspec.",
            )
        try:
            if fields.get("renorm") is not None:
                fields["renorm"] = Renorm(**fields["renorm"])
            return cls(**fields)
        except (TypeError, RecursionError) as error:
            raise _no_configuration(f"a configuration that cannot be built ({error})") from error

    @property
    def text(self) -> str:
        """Text that `to_json` returns, kept with the configuration."""
        found: str = vars(self)["_text"]
        return found

    @property
    def counts_updates(self) -> bool:
        """Return whether the running state carries a count."""
        return self.averaging != "exponential"


def _no_configuration(got: str) -> Exception:
    return refusal(
        ValueError,
        "BN-STATE-6",
        got=got,
        expected="what to_json wrote",
        do="Write it anew with BatchNormConfig.to_json.",
    )


def _decay(value: Any, clause: str) -> float:
    do = "It is the weight the old value keeps; a framework that multiplies the new value writes 1 - decay."
    return real("decay", value, lambda v: 0 <= v <= 1, "a number in [0, 1]", clause, do)
