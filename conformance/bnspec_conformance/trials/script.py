"""A standalone script of at most 15 lines that shows one failure again."""

import base64
import dataclasses
import zlib

import numpy as np

from bnspec_conformance.cases.case import Array, Case, RankOutcome

__all__ = ["script"]

_FIELDS = {field.name for field in dataclasses.fields(RankOutcome)}


def script(subject: str, case: Case, what: str, rank: int) -> str:
    """Return the script: it builds the case from its bytes, runs it, and prints got beside expected.

    Parameters
    ----------
    subject : str
        The name that `find_subject` takes; not `Subject.name`.
    case : Case
        Every array of it is written out, or a recipe is, so the script needs nothing but the installed suite.
    what : str
        The field of the outcome that is off, such as "y" or "state.mean"; y is shown for anything else.
    rank : int
        Of the rank whose result is off.
    """
    field, _, key = what.partition(".")
    shown = f".state[{key!r}]" if field == "state" else f".{field if field in _FIELDS else 'y'}"
    if case.recipe:
        return _by_recipe(subject, case.recipe, rank, shown)

    def literal(array: Array | None) -> str:
        if array is None:
            return "None"
        data = np.ascontiguousarray(array)
        packed = base64.b64encode(zlib.compress(data.tobytes(), 9)).decode()
        return f"a({packed!r}, {data.dtype.name!r}, {tuple(int(n) for n in data.shape)})"

    def many(arrays: tuple[Array, ...] | None) -> str:
        return "None" if arrays is None else "(" + "".join(literal(v) + ", " for v in arrays) + ")"

    ranks = [
        "RankInputs("
        + ", ".join(
            f"{f.name}={literal(getattr(r, f.name))}" for f in dataclasses.fields(r) if getattr(r, f.name) is not None
        )
        + ")"
        for r in case.ranks
    ]
    fields = [
        f"{n}={literal(getattr(case, n))}"
        for n in ("gamma", "beta", "gamma_dot", "beta_dot")
        if getattr(case, n) is not None
    ]
    fields += [f"{n}={many(getattr(case, n))}" for n in ("dmean", "dvar") if getattr(case, n) is not None]
    if case.state is not None:
        fields.append("state={" + ", ".join(f"{k!r}: {literal(v)}" for k, v in case.state.items()) + "}")
    fields += [f"mode={case.mode!r}", f"update={case.update!r}"]
    return "\n".join(
        [
            "import base64, zlib, ml_dtypes, numpy as np  # ml_dtypes gives NumPy its bfloat16",
            "from bnspec import BatchNormConfig",
            "from bnspec_conformance import Case, RankInputs, exact, find_subject",
            "a = lambda s, dtype, shape: np.frombuffer(zlib.decompress(base64.b64decode(s)), dtype).reshape(shape)",
            f"config = BatchNormConfig.from_json({case.config.to_json()!r})",
            f"ranks = ({', '.join(ranks)},)",
            f"case = Case(config=config, ranks=ranks, {', '.join(fields)})",
            f"got, want = (o.ranks[{rank}]{shown} for o in (find_subject({subject!r}).run(case), exact(case)))",
            "print('got', got, 'expected', want, sep='\\n')",
        ]
    )


def _by_recipe(subject: str, recipe: str, rank: int, shown: str) -> str:
    """Return the script of a case that is too large to be written out: it makes the case again."""
    return "\n".join(
        [
            "from bnspec_conformance import find_subject",
            "from bnspec_conformance.cases.inputs.sizes import Size",
            "from bnspec_conformance.oracle import float64  # as good as exact: the elements are small integers",
            f"subject = find_subject({subject!r})",
            f"case = {recipe}.case(subject.scope)",
            f"got, want = (o.ranks[{rank}]{shown} for o in (subject.run(case), float64(case)))",
            "print('got', got, 'expected', want, sep='\\n')",
        ]
    )
