"""The pseudo-code of SPEC.md runs, uses only what the text lists, and computes what the clauses ask for."""

import ast
import builtins
import itertools
import re
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from pseudo_code import OPTIONS, PRIMITIVES, blocks, namespace, subject
from spec_tables import rows

import bnspec
from bnspec._config import Averaging, GhostSource, NonFinite, RenormForm, SingleValue
from bnspec._errors import refusal
from bnspec._masks import mask_of
from bnspec_conformance import Refused
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.trials.budget import Budget

CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0)


def table(title: str, heading: str) -> dict[str, str]:
    """The first two columns of a table by its first heading."""
    return {cells[0]: cells[1] for cells in rows(title, f"| {heading} |")}


# What it says ----------------------------------------------------------------------------------------------------


def names_of(node: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}


def test_the_blocks_use_what_the_text_lists_and_define_the_rest() -> None:
    cells = table("Pseudo-code, and the bound", "primitive")
    listed = {word for cell in cells for word in re.findall(r"\w+", cell)}
    listed |= {"W", "infinity", "integer", "float32", "float64"}
    known, used, parameters = set(OPTIONS), set[str](), set[str]()
    for tree in map(ast.parse, blocks()):
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        known |= {f.name for f in functions} | names_of(tree, ast.Store)
        parameters |= {a.arg for f in functions for a in f.args.args}
        used |= names_of(tree, ast.Load)
    assert used - known - parameters - set(dir(builtins)) <= set(PRIMITIVES) & listed
    assert set(PRIMITIVES) <= listed


def test_a_symbol_stands_once_in_the_list_and_every_letter_is_a_symbol() -> None:
    symbols = [word for cell in table("Words and symbols", "symbol") for word in cell.split(", ")]
    assert len(symbols) == len(set(symbols))
    letters = {
        node.id if isinstance(node, ast.Name) else node.arg
        for tree in map(ast.parse, blocks())
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.arg)
    }
    assert {name for name in letters if len(name) <= 2} <= {*symbols, "W", "x", "y", "dx", "dy", "m2", "hi", "lo"}


def test_words_that_the_page_of_words_needs_are_there() -> None:
    words = ", ".join(table("Words and symbols", "word"))
    for word in ("cotangent", "tangent", "vjp", "jvp", "collective", "dialect", "eager", "context", "feed"):
        assert re.search(rf"\b{word}\b", words), word


# What it computes ------------------------------------------------------------------------------------------------

_OF_LAYERS = ("test_update::", "test_errors::", "test_files::", "test_bad_files::", "test_names::", "test_unknown::",
              "test_autodiff")  # fmt: skip
CHECKS = [name for name in all_checks() if not name.startswith(_OF_LAYERS)]


@pytest.mark.parametrize("part", range(4))
def test_the_pseudo_code_passes_the_suite(part: int) -> None:
    records = [attempt(all_checks()[name], subject, Budget(2, 0, False)) for name in CHECKS[part::4]]
    assert [(r.check, r.reason) for r in records if r.outcome == "failed"] == []
    outcomes = [r.outcome for r in records]
    assert outcomes.count("passed") > len(outcomes) // 2


def test_a_wrong_formula_of_the_text_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import pseudo_code

    wrong = [text.replace("+ feed.m2 + apart**2", "+ feed.m2 + apart").replace("sum_e(g * xhat)", "sum_e(g)")
             for text in blocks()]  # fmt: skip
    monkeypatch.setattr(pseudo_code, "_compiled", lambda: tuple(compile(text, "", "exec") for text in wrong))
    for name in ("test_running::test_pooled", "test_gradients::test_vjp"):
        assert attempt(all_checks()[name], subject, Budget(12, 0, False)).outcome == "failed"


@pytest.mark.parametrize(("shape", "size"), [((4, 0), None), ((0, 3), None), ((0, 3), 2), ((4, 0), 2), ((0, 0), 1)])
def test_nothing_to_normalize_is_normalized(shape: tuple[int, int], size: int | None) -> None:
    x = np.zeros(shape, np.float32)
    config = bnspec.BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0, virtual_batch_size=size)
    params, _ = bnspec.init(config, channels=shape[1], like=x)
    y, stats, saved = namespace(config)["batch_norm"](x, params.gamma, params.beta)
    expected, theirs, _ = bnspec.batch_norm(x, params, config)
    assert (y.shape, y.dtype, stats.n[:, 0, 0].tolist()) == (expected.shape, expected.dtype, theirs.count.tolist())
    dx, dgamma, dbeta = namespace(config)["gradients"](x, x, saved, x.dtype, x.dtype)
    assert (dx.shape, dgamma.tolist(), dbeta.tolist()) == (shape, [0] * shape[1], [0] * shape[1])


# The update under every combination of options -------------------------------------------------------------------

RENORM = (None, *(bnspec.Renorm(form=form, rmax=2.0, dmax=1.0, decay=0.5) for form in get_args(RenormForm)))
#: Of one channel each: ordinary, NaN, an infinity, beyond float32, ordinary again.
MEANS = np.asarray([[0.5, np.nan, 1.0, 3e38, 1.0], [2.0, 1.0, np.inf, 4e38, -1.0], [1.0, 1.0, 1.0, -3e38, 0.0]])
M2 = np.asarray([[2.0, 1.0, 1.0, 1.0, 1e39], [4.0, np.nan, 0.0, 2.0, 1e38], [0.5, 1.0, np.inf, 8.0, 0.0]])
COUNTS = ((3, 3, 3), (1, 4, 0), (0, 2, 1), (0, 0, 0), (1, 1, 1), (2,), (1,), (0,), ())


def configurations() -> Any:
    words = map(get_args, (Averaging, GhostSource, SingleValue, NonFinite))
    for averaging, source, single, nonfinite, renorm, correction, size in itertools.product(
        *words, RENORM, (0, 1), (None, 1)
    ):
        try:
            yield bnspec.BatchNormConfig(
                axis=1, epsilon=0.25, decay=0.75, correction=correction, averaging=averaging, ghost_source=source,
                single_value=single, nonfinite=nonfinite, renorm=renorm, virtual_batch_size=size,
            )  # fmt: skip
        except ValueError:  # refused together: test_options_page
            continue


def state_of(config: bnspec.BatchNormConfig) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    new = bnspec.init(config, channels=5, like=np.zeros(1, np.float32))[1]._asdict()
    made = {name: (rng.random(5) + 0.5).astype(v.dtype) for name, v in new.items() if v is not None}
    if "count" in made:
        made["count"] = np.asarray([0, 1, 5, np.iinfo(np.int64).max - 1, 2], np.int64)
    return made


def same(got: dict[str, Any], want: dict[str, Any]) -> bool:
    """Equal but for the last rounding to float32."""
    with np.errstate(all="ignore"):
        return set(got) == set(want) and all(
            got[k].dtype == want[k].dtype
            and np.all(
                (got[k] == want[k])
                | (np.isnan(got[k]) & np.isnan(want[k]))
                | (np.abs(got[k] - want[k]) <= np.spacing(np.abs(want[k]).astype(np.float32)))
            )
            for k in want
        )


def test_the_update_is_that_of_bnspec_under_every_combination_of_options() -> None:
    tried, refused = 0, 0
    for config in configurations():
        names, state = namespace(config), state_of(config)
        for counts in COUNTS:
            if config.virtual_batch_size is None and len(counts) != 1:
                continue
            n, rows = np.asarray(counts, np.int64), len(counts)
            mean, m2 = (np.where(n[:, None] > 0, v[:rows], 0.0) for v in (MEANS, M2))
            stats = names["Moments"](n[:, None, None], mean[:, None], np.zeros((rows, 1, 5)), m2[:, None])
            ours: Any
            with np.errstate(all="ignore"):
                try:
                    theirs = bnspec.update_running(
                        bnspec.RunningState(**state), bnspec.Moments(n, mean, np.zeros((rows, 5)), m2), config
                    )
                    ours = {k: v for k, v in theirs._asdict().items() if v is not None}
                except (ValueError, FloatingPointError) as error:
                    ours = re.findall(r"\[(BN-.*)\]", str(error))
                try:
                    got = names["update"](state, stats)
                except Refused as error:
                    got = re.findall(r"\[(BN-.*)\]", str(error))
            tried, refused = tried + 1, refused + isinstance(got, list)
            assert type(got) is type(ours), (config, counts, got, ours)
            assert got == ours if isinstance(got, list) else same(got, ours), (config, counts, got, ours)
    assert tried > 3000
    assert 0 < refused < tried / 2


@pytest.mark.parametrize("averaging", get_args(Averaging))
@pytest.mark.parametrize("renorm", RENORM)
def test_a_new_state_is_that_of_bnspec(averaging: Any, renorm: Any) -> None:
    if renorm is not None and averaging != "exponential":
        return
    config = bnspec.BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0, averaging=averaging, renorm=renorm)
    for dtype in (np.float16, np.float64):
        x = np.zeros(1, dtype)
        names = namespace(config)
        got = names["new_state"](3, names["statistics_dtype"](x))
        want = {k: v for k, v in bnspec.init(config, channels=3, like=x)[1]._asdict().items() if v is not None}
        assert {k: (v.dtype, v.tolist()) for k, v in got.items()} == {k: (v.dtype, v.tolist()) for k, v in want.items()}


# Part II ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["default", "internal", "collection", "skip"])
@pytest.mark.parametrize("dialect", ["bnspec", "tensorpack"])
@pytest.mark.parametrize(("tower", "is_training"), [(0, True), (1, True), (0, False), (None, None)])
def test_a_layer_updates_when_the_pseudo_code_says(
    mode: Any, dialect: str, tower: int | None, is_training: bool | None
) -> None:
    x = np.asarray([[0.0], [0.0], [0.0], [2.0]], np.float32)
    names = namespace(CONFIG)
    ours = bnspec.BatchNorm(decay=0.75, epsilon=0.25, ema_update=mode, dialect=dialect, training=True)
    state = names["new_state"](1, np.dtype("float32"))
    text = SimpleNamespace(ema_update=mode, dialect=dialect, state=state)
    after: list[Any] = []
    if tower is None:
        try:
            names["forward"](text, x, None)
        except Refused as error:
            with pytest.raises((ValueError, RuntimeError), match=re.findall(r"\[(BN-.*)\]", str(error))[0]):
                ours(x)
            return
        ours(x)
    else:
        context = SimpleNamespace(tower=tower, is_training=is_training, recomputing=False, updates=[])
        with bnspec.training_context(is_training=bool(is_training), tower=tower) as real:
            ours(x)
            names["forward"](text, x, context)
            after = [(ours.state.mean.tolist(), text.state["mean"].tolist())]
            real.updates.run()
            names["run"](context.updates)
    after += [(ours.state.mean.tolist(), text.state["mean"].tolist())]
    assert all(theirs == mine for theirs, mine in after), after


@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 5), 1), ((4, 5, 3), -1), ((4, 5, 2, 3), 3), ((4, 3, 5, 2), -3)])
def test_forms_of_masks_are_those_of_bnspec(shape: tuple[int, ...], axis: int) -> None:
    names, x = namespace(CONFIG), np.zeros(shape)
    names["axis"] = axis
    own = axis % len(shape)
    lengths = np.asarray([5, 0, 2, 3])
    np.testing.assert_array_equal(names["mask_of"](lengths, x), mask_of(x, own, None, lengths))
    thin = np.random.default_rng(2).random([n for a, n in enumerate(shape) if a != own]) < 0.5
    np.testing.assert_array_equal(names["whole_mask"](thin, x), mask_of(x, own, thin, None))


def test_a_refusal_has_the_words_of_the_text() -> None:
    said = {"got": "x is 1", "expected": "2", "do": "Pass 2."}
    mine = namespace(CONFIG)["refusal"](ValueError, "BN-SHAPE-1", "x is 1", "2", "Pass 2.")
    assert str(mine) == str(refusal(ValueError, "BN-SHAPE-1", **said))
