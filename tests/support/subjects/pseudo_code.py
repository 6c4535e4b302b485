"""The pseudo-code of SPEC.md, run as it stands: `bnspec-conformance run pseudo_code:subject` puts it to the suite.

W is float64. The primitives that the page "Pseudo-code, and the bound" lists are here, in NumPy; everything else comes
from the text.
"""

import builtins
import dataclasses
import functools
import math
import re
import threading
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, ClassVar

import numpy as np

from bnspec._clauses import specification
from bnspec._config import BatchNormConfig
from bnspec_conformance import Case, Outcome, RankInputs, RankOutcome, Refused, Scope

__all__ = ["OPTIONS", "PRIMITIVES", "PseudoCode", "blocks", "namespace", "subject"]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Fields of the configuration: their names are their values.
OPTIONS = tuple(field.name for field in dataclasses.fields(BatchNormConfig))


def blocks() -> list[str]:
    """Return the blocks of the pages in their order; those with a prompt are examples.

    The program of the bound, in an appendix, has letters and a test of its own.
    """
    pages = specification().split("\n# Appendices\n", 1)[0]
    return [text for text in _BLOCK.findall(pages) if ">>>" not in text]


def cast(values: Any, dtype: Any) -> Any:
    return np.asarray(values).astype(dtype)


def sum_e(values: Any) -> Any:
    return np.sum(values, axis=1, keepdims=True)


def max_e(values: Any) -> Any:
    return np.max(values, axis=1, keepdims=True, initial=-math.inf)


def sum_g(values: Any) -> Any:
    return np.sum(values, axis=(0, 1))


def largest(dtype: Any) -> Any:
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else float(np.finfo(dtype).max)


def refuse(clause: str) -> None:
    raise Refused(f"refused [{clause}]")


def record(names: str) -> Any:
    return namedtuple("record", names)


PRIMITIVES: Mapping[str, Any] = {
    "W": np.dtype("float64"),
    "abs": np.abs,
    "all_gather": lambda value: [value],
    "arange": np.arange,
    "broadcast_to": np.broadcast_to,
    "cast": cast,
    "changed": lambda values, **fields: values._replace(**fields),
    "clip": lambda values, low, high: np.minimum(np.maximum(values, low), high),
    "expm1": np.expm1,
    "float32": np.dtype("float32"),
    "float64": np.dtype("float64"),
    "fold": lambda join, values: functools.reduce(join, values),
    "infinity": math.inf,
    "integer": np.dtype("int64"),
    "isfinite": np.isfinite,
    "largest": largest,
    "log": math.log,
    "max_e": max_e,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "moveaxis": np.moveaxis,
    "product": math.prod,
    "record": record,
    "refuse": refuse,
    "reshape": np.reshape,
    "sqrt": np.sqrt,
    "stop_gradient": lambda values: values,
    "sum_e": sum_e,
    "sum_g": sum_g,
    "where": np.where,
}


@functools.cache
def _compiled() -> tuple[CodeType, ...]:
    return tuple(compile(text, f"SPEC.md, block {i}", "exec") for i, text in enumerate(blocks()))


def namespace(config: BatchNormConfig, all_gather: Callable[[Any], list[Any]] | None = None) -> dict[str, Any]:
    """Return what the pseudo-code defines, for one rank, with the options of a configuration."""
    names: dict[str, Any] = {"__builtins__": builtins, **PRIMITIVES}
    names |= {name: getattr(config, name) for name in OPTIONS}
    if all_gather is not None:
        names["all_gather"] = all_gather
    for code in _compiled():
        exec(code, names)
    return names


class PseudoCode:
    """The text as a subject."""

    name, arithmetic, bound, flushes, dialect, backend = "pseudo_code:subject", "float64", "strict", False, None, None
    evaluation: ClassVar[dict[str, str]] = {}
    examples = 8
    scope = Scope(dtypes=("float16", "bfloat16", "float32", "float64"))

    def version(self) -> str:
        """Return the version of the text."""
        from bnspec._clauses import specification_version

        return f"SPEC.md {specification_version()}"

    def supports(self, case: Case) -> str | None:
        """Return None: the text has everything."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run a case, its ranks side by side."""
        size = len(case.ranks)
        if size == 1:
            return Outcome((_rank(case, case.ranks[0], 0, None),))
        barrier, sent = threading.Barrier(size, timeout=60), list[Any]([None] * size)
        done: list[Any] = [None] * size

        def one(number: int) -> None:
            def all_gather(value: Any) -> list[Any]:
                sent[number] = value
                barrier.wait()
                together = list(sent)
                barrier.wait()
                return together

            try:
                done[number] = _rank(case, case.ranks[number], number, all_gather)
            except Exception as error:
                done[number] = error
                barrier.abort()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [value for value in done if isinstance(value, Exception)]
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        return Outcome(tuple(done))


def _rank(case: Case, rank: RankInputs, number: int, all_gather: Any) -> RankOutcome:
    with np.errstate(all="ignore"):
        run = _infer if case.mode == "inference" else _train
        return run(namespace(case.config, all_gather), case, rank, number)


def _train(names: Any, case: Case, rank: RankInputs, number: int) -> RankOutcome:
    x, parameters = rank.x, _parameters(case)
    y, stats, saved = names["batch_norm"](x, *parameters, mask=rank.mask, state=case.state)
    n = stats.n[:, 0] if case.counts_channels else stats.n[:, 0, 0]
    n = np.broadcast_to(n, (len(n), case.channels)) if case.counts_channels else n
    mean, var = (stats.mean + stats.low)[:, 0], (stats.m2 / np.maximum(stats.n, 1))[:, 0]
    found: dict[str, Any] = {"y": y, "count": n, "mean": mean, "var": var}
    if case.state is not None and case.update:
        found["state"] = names["update"](case.state, stats)
    if rank.dy is not None:
        cotangents = [None if v is None else v[number].astype(np.float64)[:, None] for v in (case.dmean, case.dvar)]
        dx, *others = names["gradients"](rank.dy, x, saved, *_dtypes(case), *cotangents)
        found |= {"dx": dx} | _present(case, others)
    if rank.xdot is not None:
        xdot = names["view"](rank.xdot, saved.X.shape[0]).astype(np.float64)
        ydot, mean_dot, var_dot = names["jvp"](xdot, saved, *_dots(case))
        found |= {"ydot": names["view_back"](ydot, x), "mean_dot": mean_dot[:, 0], "var_dot": var_dot[:, 0]}
    return RankOutcome(**found)


def _infer(names: Any, case: Case, rank: RankInputs, number: int) -> RankOutcome:
    y, kept = names["inference"](rank.x, case.state, *_parameters(case))
    found: dict[str, Any] = {"y": y}
    if rank.dy is not None:
        dx, *others = names["frozen_vjp"](names["view"](rank.dy, 1).astype(np.float64), kept)
        others = [v.astype(dtype) for v, dtype in zip(others, _dtypes(case))]
        found |= {"dx": names["view_back"](dx, rank.x)} | _present(case, others)
    if rank.xdot is not None:
        ydot = names["frozen_jvp"](names["view"](rank.xdot, 1).astype(np.float64), kept, *_dots(case))
        found["ydot"] = names["view_back"](ydot, rank.x)
    return RankOutcome(**found)


def _parameters(case: Case) -> list[Any]:
    """Return gamma and beta; the number that stands for one that does not exist."""
    given = ((case.gamma, case.config.scale, 1), (case.beta, case.config.center, 0))
    return [np.asarray(v).astype(np.float64) if there and v is not None else number for v, there, number in given]


def _dots(case: Case) -> list[Any]:
    given = ((case.gamma_dot, case.config.scale), (case.beta_dot, case.config.center))
    return [v.astype(np.float64) if there and v is not None else None for v, there in given]


def _dtypes(case: Case) -> list[Any]:
    kept = np.dtype("float64" if case.ranks[0].x.dtype == np.float64 else "float32")
    return [kept if v is None else v.dtype for v in (case.gamma, case.beta)]


def _present(case: Case, gradients: Sequence[Any]) -> dict[str, Any]:
    there = {"dgamma": case.config.scale, "dbeta": case.config.center}
    return {name: v for (name, exists), v in zip(there.items(), gradients, strict=True) if exists}


subject = PseudoCode()
