"""ONNX's operator BatchNormalization, opset 15, as subjects: ONNX's reference evaluator, and onnxruntime.

A case becomes a model of one node, with ``training_mode`` 1 or 0, x of the case's dtype and scale, B, mean and var of
the dtype that the statistics have. The operator has no form without scale and B, returns no statistics, and takes its
epsilon and momentum as float32 numbers: where x is float64, only values that float32 holds exactly are put to it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.contract import Refused, SubjectError
from bnspec_conformance.subjects.defaults import HasDefaults
from bnspec_conformance.subjects.frameworks.onnx import onnx_defaults as own
from bnspec_conformance.subjects.frameworks.onnx.providers import CPU, errors, starter

__all__ = ["OnnxOperator", "evaluator", "reference", "reference_errors", "runtime"]

_OPSET = 15
_INPUTS = ("x", "scale", "B", "input_mean", "input_var")
_OUTPUTS = ("y", "running_mean", "running_var")

#: Runs a model on named arrays and returns its outputs.
Evaluator = Callable[[dict[str, Array]], list[Any]]


@dataclasses.dataclass
class OnnxOperator(HasDefaults):
    """The operator on one implementation.

    Attributes
    ----------
    start : callable
        A model to what runs it.
    refusals : callable
        The exceptions by which the implementation refuses a case.
    profiles : frozenset of str
    fixed : mapping of str to tuple
        Further options of the scope: those that a model file fixes.
    opset : int
        Version of the operator.
    """

    name: str
    start: Callable[[Any], Evaluator]
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    refusals: Callable[[], tuple[type[Exception], ...]]
    arithmetic: Literal["float64", "float32"] = "float32"
    bound: Literal["strict", "plain"] = "plain"
    flushes: bool = False
    examples: int = 20
    dialect: str | None = "onnx"
    backend: None = None
    profiles: frozenset[str] = frozenset({"core", "running", "inference"})
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    opset: int = _OPSET

    @property
    def scope(self) -> Scope:
        """Scope of the operator, as its text has it."""
        return Scope(
            profiles=self.profiles,
            dtypes=self.dtypes,
            axes="first",
            world=1,
            options={
                "correction": (0,),
                "averaging": ("exponential",),
                "nonfinite": ("propagate",),
                "center": (True,),
                "scale": (True,),
                **self.fixed,
            },
        )

    def version(self) -> str:
        """Return the packages and their versions."""
        return ", ".join(f"{package} {version(package)}" for package in self.packages)

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason; besides, attributes of a float64 case must be float32 numbers."""
        if case.ranks[0].x.dtype == np.float64:
            given = {"epsilon": case.config.epsilon} | (
                {"decay": case.config.decay} if "running" in needs(case) else {}
            )
            for name, value in given.items():
                if float(np.float32(value)) != value:
                    return f"it takes its attributes as float32, and {name}={value!r} is none"
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the model once."""
        x, training = case.ranks[0].x, case.mode == "batch"
        kept = "float64" if x.dtype == np.float64 else "float32"
        state = case.state or {}
        defaults = {"scale": (case.gamma, 1.0), "B": (case.beta, 0.0)}
        defaults |= {"input_mean": (state.get("mean"), 0.0), "input_var": (state.get("var"), 1.0)}
        feeds = {"x": np.array(x)} | {
            name: np.array(np.full(case.channels, default) if given is None else given).astype(kept)
            for name, (given, default) in defaults.items()
        }
        try:
            config = case.config
            session = _session(
                self.start, x.dtype.name, x.ndim, kept, config.epsilon, config.decay, training, self.opset
            )
            results = session(feeds)
        except self.refusals() as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        found = [np.array(v) for v in results]
        new = {"mean": found[1], "var": found[2]} if "running" in needs(case) else None
        return Outcome((RankOutcome(y=found[0], state=new),))


def reference() -> OnnxOperator:
    """``onnx.reference.ReferenceEvaluator``, ONNX's executable text."""
    import onnx.reference  # noqa: F401 - what is missing shows here and not in the first case

    dtypes = ("float32", "float64", "float16", "bfloat16")
    defaults = own.operator(evaluator, own.REFERENCE)
    return OnnxOperator("onnx-reference", evaluator, ("onnx",), dtypes, reference_errors, defaults=defaults)


def runtime(*, provider: str = CPU) -> OnnxOperator:
    """onnxruntime's kernels, those of the CPU unless told otherwise; they have no bfloat16.

    Parameters
    ----------
    provider : str
        The execution provider.

    Raises
    ------
    SubjectError
        If it is none of this onnxruntime, or cannot run the operator.
    """
    import onnx  # noqa: F401

    start = starter(provider)
    try:
        _session(start, "float32", 4, "float32", 1e-5, 0.9, training=False)
    except errors() as error:
        why = str(error).splitlines()[0]
        raise SubjectError(f"onnxruntime's {provider} does not run BatchNormalization by itself: {why}") from error
    defaults = own.operator(start, own.RUNTIME)
    dtypes = ("float32", "float64", "float16")
    return OnnxOperator("onnxruntime", start, ("onnxruntime", "onnx"), dtypes, errors, defaults=defaults)


def reference_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which ONNX's reference refuses a model or its inputs."""
    return (TypeError, ValueError, RuntimeError)


def evaluator(model: Any) -> Evaluator:
    """Return what runs a model by ONNX's reference."""
    from onnx.reference import ReferenceEvaluator

    found = ReferenceEvaluator(model)
    return lambda feeds: list(found.run(None, feeds))


@functools.lru_cache(maxsize=256)
def _session(
    start: Callable[[Any], Evaluator],
    dtype: str,
    ndim: int,
    kept: str,
    epsilon: float,
    decay: float,
    training: bool,
    opset: int = _OPSET,
) -> Evaluator:
    """Return a function that runs the model of a configuration, for x of a dtype and rank and of any extents."""
    from onnx import TensorProto, checker, helper

    kinds = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT}
    kinds["float64"] = TensorProto.DOUBLE
    extents = ["N", "C", *(f"D{i}" for i in range(1, ndim - 1))]

    def value(name: str) -> Any:
        like_x = name in ("x", "y")
        return helper.make_tensor_value_info(name, kinds[dtype if like_x else kept], extents if like_x else ["C"])

    outputs = _OUTPUTS if training else _OUTPUTS[:1]
    # Before opset 14 a node of one output is one of inference, and has no attribute for it.
    mode = {"training_mode": int(training)} if opset >= 14 else {}
    node = helper.make_node("BatchNormalization", _INPUTS, outputs, epsilon=epsilon, momentum=decay, **mode)
    graph = helper.make_graph([node], "batch_norm", [value(v) for v in _INPUTS], [value(v) for v in outputs])
    # IR version 8 is the one of opset 15; a newer one would be refused by an older onnxruntime.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(model)
    return start(model)
