"""Errors: the wording of a refusal, and the error types that are more than a built-in.

Every refusal says four things in one order: what came, what was expected, which clause of
``SPEC.md`` says so, and what to do about it. Building the text in one place keeps that order.
"""

__all__ = [
    "CollectiveMismatch",
    "CollectiveTimeout",
    "CommunicatorError",
    "ConversionWarning",
    "FrozenStatisticsWarning",
    "UntrainedParametersWarning",
    "refusal",
]


def refusal(kind: type[Exception], clause: str, *, got: str, expected: str, do: str) -> Exception:
    """Build (not raise) the exception that refuses an input.

    Examples
    --------
    >>> print(refusal(ValueError, "BN-SHAPE-1", got="x has shape (4,)", expected="rank >= 2",
    ...               do="Reshape it to (N, C)."))
    x has shape (4,); expected rank >= 2 [BN-SHAPE-1]. Reshape it to (N, C).
    """
    return kind(f"{got}; expected {expected} [{clause}]. {do}")


class CommunicatorError(RuntimeError):
    """A collective ended without a result on any rank [BN-SYNC-9]."""


class CollectiveMismatch(CommunicatorError):
    """The ranks met in one collective with different layers, shapes, dtypes or options."""


class CollectiveTimeout(CommunicatorError, TimeoutError):
    """At least one rank did not arrive before the deadline."""


class FrozenStatisticsWarning(UserWarning):
    """A layer normalizes by its running statistics while it trains [BN-INF-5]."""


class UntrainedParametersWarning(UserWarning):
    """torch differentiates a layer's output, and not its gamma and beta, which are to be trained."""


class ConversionWarning(UserWarning):
    """A converted layer infers as it did, and will not train on as it did [BN-RUN-3]."""
