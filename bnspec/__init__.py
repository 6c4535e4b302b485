"""bnspec: what batch normalization computes, written against the Python array API standard.

The text is ``SPEC.md`` beside this file (``bnspec spec`` prints it); the functions below are the same
text, executable on the arrays of NumPy, CuPy, torch, JAX and any library that follows the standard.
"""

from bnspec._apply import apply
from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._communicator import Communicator, Signature
from bnspec._config import BatchNormConfig, Renorm
from bnspec._context import TrainingContext, UpdateCollection, current_context, recompute, training_context
from bnspec._convert import convert
from bnspec._derivatives import batch_norm_jvp, batch_norm_tangents, batch_norm_vjp
from bnspec._dialects import Dialect, dialects
from bnspec._discovery import (
    Backend,
    get_backend,
    get_communicator,
    kernels_for,
    known_backends,
    use_kernels,
)
from bnspec._errors import (
    CollectiveMismatch,
    CollectiveTimeout,
    CommunicatorError,
    ConversionWarning,
    FrozenStatisticsWarning,
    UntrainedParametersWarning,
    refusal,
)
from bnspec._fold import Affine, fold
from bnspec._fold_kernels import FoldedKernel, fold_into_following, fold_into_preceding
from bnspec._init import init
from bnspec._kernels import Kernels
from bnspec._layer.layer import BatchNorm
from bnspec._layer.renorm import BatchRenorm
from bnspec._precise import PreciseStatistics
from bnspec._schedule import Schedule
from bnspec._statistics import merge, moments
from bnspec._types import Array, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved, Tangents
from bnspec._update import running_statistics, update_running

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Array",
    "Backend",
    "BatchNorm",
    "BatchNormConfig",
    "BatchRenorm",
    "CollectiveMismatch",
    "CollectiveTimeout",
    "Communicator",
    "CommunicatorError",
    "ConversionWarning",
    "Dialect",
    "FoldedKernel",
    "FrozenStatisticsWarning",
    "Gradients",
    "Groups",
    "Kernels",
    "Moments",
    "Normalized",
    "Params",
    "PreciseStatistics",
    "Renorm",
    "RunningState",
    "Saved",
    "Schedule",
    "Signature",
    "Tangents",
    "TrainingContext",
    "UntrainedParametersWarning",
    "UpdateCollection",
    "__version__",
    "apply",
    "batch_norm",
    "batch_norm_inference",
    "batch_norm_jvp",
    "batch_norm_tangents",
    "batch_norm_vjp",
    "convert",
    "current_context",
    "dialects",
    "fold",
    "fold_into_following",
    "fold_into_preceding",
    "get_backend",
    "get_communicator",
    "init",
    "kernels_for",
    "known_backends",
    "merge",
    "moments",
    "recompute",
    "refusal",
    "running_statistics",
    "training_context",
    "update_running",
    "use_kernels",
]
