"""`bnspec.convert` on one layer's arrays: names, forms, values, and what is refused."""

import copy
import itertools
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from refusals import refused

import bnspec
from bnspec._dtypes import FLOATING
from bnspec._storage import STORED

ROWS = bnspec.dialects.names()
PAIRS = list(itertools.permutations(ROWS, 2))
RNG = np.random.default_rng(3)
GIVEN = RNG.uniform(0.5, 2, (4, 3))


def torch_layer(dtype: str = "float32") -> dict[str, Any]:
    """Return one layer, the same at each call; of so few updates that a debiased average shows its decay."""
    made = dict(zip(("weight", "bias", "running_mean", "running_var"), GIVEN.astype(dtype)))
    return made | {"num_batches_tracked": np.asarray(5)}


def layer_of(name: str) -> dict[str, Any]:
    return bnspec.convert(torch_layer(), source="torch", target=name, count="keep", decay=0.99)


def inference(arrays: dict[str, Any], name: str, x: Any, epsilon: float) -> Any:
    """Return y of bnspec's layer of a dialect, loaded with a layer's arrays as far as its state needs them."""
    row = bnspec.dialects[name]
    layer = bnspec.BatchNorm(axis=1, dialect=name, epsilon=epsilon, decay=0.99)
    wanted = [row.names[f] for f in ("gamma", "beta", "mean", "var")]
    values = {n: np.asarray(arrays[n]).reshape(-1) for n in wanted}
    if row.averaging != "exponential":
        values[row.names["count"]] = np.full(3, int(arrays["mean_ema/counter"]))
    layer.load_state_dict(values)
    return layer.eval()(x)


def test_every_dialect_says_how_it_stores_a_layer() -> None:
    assert set(STORED) == set(ROWS)
    assert all(bnspec.dialects[name].storage is STORED[name] for name in ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_can_be_copied_and_pickled(name: str) -> None:
    row = bnspec.dialects[name]
    assert copy.deepcopy(row) == pickle.loads(pickle.dumps(row)) == row


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_inference_is_the_same_and_there_and_back_to_the_bit(source: str, target: str) -> None:
    first = layer_of(source)
    moved = bnspec.convert(first, source=source, target=target, count="keep", decay=0.99)
    back = bnspec.convert(moved, source=target, target=source, count="keep", decay=0.99)
    counters = {*STORED[source].counters, STORED[source].new_flag}
    same = [name for name in first if name not in counters and not name.endswith("hidden")]
    assert list(back) == list(first)
    assert bits({name: back[name] for name in same}) == bits({name: first[name] for name in same})
    x = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
    y, other = inference(first, source, x, 1e-3), inference(moved, target, x, 1e-3)
    debiased = "debiased" in (bnspec.dialects[source].averaging, bnspec.dialects[target].averaging)
    # An accumulator is rounded once when it is made of the average, and once when it is divided again.
    assert np.max(np.abs(y - other)) <= (8 * 2.0**-23 if debiased else 0.0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [2, 3, 32, 10**6])
def test_a_corrected_variance_is_rounded_once(dtype: str, count: int) -> None:
    given = torch_layer(dtype=dtype)
    made = bnspec.convert(given, source="torch", target="flax", count=count)["var"]
    exact = given["running_var"].astype(np.float64) * ((count - 1) / count)
    assert made.dtype == dtype
    assert np.array_equal(made, exact.astype(dtype))
    named = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), list(given.values())[:4]))
    back = bnspec.convert(named, source="keras", target="torch", count=count)["running_var"]
    assert np.array_equal(back, (given["running_var"].astype(np.float64) * (count / (count - 1))).astype(dtype))


def test_a_variance_that_stays_is_told_with_what_it_comes_to() -> None:
    given = torch_layer()
    percent = 100 * (math.sqrt(32 / 31) - 1)
    with pytest.warns(bnspec.ConversionWarning, match=rf"running_var.*by {percent:.2g} % for n=32.*count=n"):
        made = bnspec.convert(given, source="torch", target="flax")
    assert bits(made["var"]) == bits(given["running_var"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnspec.convert(given, source="torch", target="flax", count="keep")
        bnspec.convert(given, source="torch", target="chainer")
        bnspec.convert({"scale": given["weight"], "bias": given["bias"], "mean": given["running_mean"],
                        "var": given["running_var"]}, source="flax", target="keras")  # fmt: skip


@pytest.mark.parametrize(("rank", "told"), [(4, False), (2, True), (3, True)])
def test_the_correction_of_the_fused_path_belongs_to_rank_4(rank: int, told: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bnspec.convert(torch_layer(), source="torch", target="tf_keras", rank=rank)
    assert bool(caught) == told


@pytest.mark.parametrize("rank", [2, 4, 5])
@pytest.mark.parametrize("axis", [1, -1])
def test_haiku_keeps_the_axes_of_x(rank: int, axis: int) -> None:
    made = bnspec.convert(torch_layer(), source="torch", target="haiku", rank=rank, axis=axis, count="keep")
    shape = [1] * rank
    shape[axis] = 3
    assert {name: v.shape for name, v in made.items() if "counter" not in name} == {
        name: tuple(shape)
        for name in ("scale", "offset", "mean_ema/hidden", "mean_ema/average", "var_ema/hidden", "var_ema/average")
    }
    assert made["mean_ema/counter"].dtype == made["var_ema/counter"].dtype == np.int32
    assert int(made["mean_ema/counter"]) == 5


def test_a_debiased_average_of_few_updates_is_an_accumulator_and_its_average() -> None:
    given = torch_layer()
    made = bnspec.convert(given, source="torch", target="haiku", decay=0.5, count="keep")
    assert np.array_equal(made["mean_ema/average"].reshape(-1), given["running_mean"])
    assert np.array_equal(
        made["mean_ema/hidden"].reshape(-1), (given["running_mean"].astype(np.float64) * (1 - 0.5**5)).astype("float32")
    )
    only = {name: v for name, v in made.items() if "average" not in name}
    back = bnspec.convert(only, source="haiku", target="keras", decay=0.5)
    np.testing.assert_allclose(back["moving_mean"], given["running_mean"], rtol=2.0**-23)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_without_a_number_of_updates_nothing_is_left_to_debias(decay: float) -> None:
    kept = layer_of("keras")
    made = bnspec.convert(kept, source="keras", target="haiku", decay=decay)
    assert bits(made["mean_ema/hidden"]) == bits(made["mean_ema/average"])
    assert np.float32(1 - decay ** int(made["var_ema/counter"])) == 1


def test_a_count_of_0_beside_statistics_is_no_count() -> None:
    given = torch_layer() | {"num_batches_tracked": np.asarray(0)}
    made = bnspec.convert(given, source="torch", target="haiku", count="keep")
    assert bits(made["var_ema/hidden"]) == bits(made["var_ema/average"])
    assert int(made["var_ema/counter"]) > 0
    new = given | {"running_mean": np.zeros(3, np.float32), "running_var": np.ones(3, np.float32)}
    made = bnspec.convert(new, source="torch", target="haiku", count="keep")
    assert (int(made["var_ema/counter"]), made["var_ema/hidden"].any()) == (0, False)
    assert made["var_ema/average"].reshape(-1).tolist() == [1, 1, 1]


def test_absent_parameters() -> None:
    full = layer_of("keras")
    no_gamma = {name: v for name, v in full.items() if name != "gamma"}
    neither = {name: v for name, v in no_gamma.items() if name != "beta"}
    assert list(bnspec.convert(no_gamma, source="keras", target="flax")) == ["bias", "mean", "var"]
    made = bnspec.convert(no_gamma, source="keras", target="equinox")
    assert made["weight"].tolist() == [1, 1, 1]
    assert list(bnspec.convert(neither, source="keras", target="equinox")) == ["mean", "var", "first_time"]
    made = bnspec.convert(neither, source="keras", target="onnx")
    assert (made["scale"].tolist(), made["B"].tolist()) == ([1, 1, 1], [0, 0, 0])
    assert made["scale"].dtype == np.float32


def test_renorm_moves_where_it_can() -> None:
    layer = bnspec.BatchRenorm(2.0, 1.0, ema_update="internal")
    layer(RNG.normal(size=(4, 5, 5, 3)).astype(np.float32))
    kept = layer.state_dict()
    made = bnspec.convert(kept, source="bnspec", target="keras")
    assert len(made) == 7
    assert bits(made) == bits({name: kept[name] for name in made})
    made = bnspec.convert(kept, source="bnspec", target="flax")
    assert bits(made["var"]) == bits(kept["moving_variance"])
    assert len(made) == 4


def test_a_reference_that_renorm_shares_becomes_one_of_its_own() -> None:
    layer = bnspec.BatchRenorm(2.0, 1.0, form="paper", ema_update="internal")
    layer(RNG.normal(size=(4, 5, 5, 3)).astype(np.float32))
    kept = layer.state_dict()
    assert len(kept) == 5
    assert bits(bnspec.convert(kept, source="bnspec", target="bnspec")) == bits(kept)
    made = bnspec.convert(kept, source="bnspec", target="keras")
    assert bits(made["renorm_mean"]) == bits(kept["moving_mean"])
    assert bits(made["renorm_stddev"]) == bits(kept["moving_stddev"])


def test_counts_of_channels_become_one_number() -> None:
    layer = bnspec.BatchNorm(decay=0.9, averaging="cumulative", ema_update="internal")
    for _ in range(3):
        layer(RNG.normal(size=(4, 3)).astype(np.float32))
    made = bnspec.convert(layer.state_dict(), source="bnspec", target="torch", count="keep")
    assert (made["num_batches_tracked"].shape, int(made["num_batches_tracked"])) == ((), 3)


@pytest.mark.parametrize("name", ["torch", "jax", "array_api_strict"])
def test_arrays_stay_in_their_library(name: str) -> None:
    library = pytest.importorskip(name)
    xp = library.numpy if name == "jax" else library
    given = {key: xp.asarray(value) for key, value in torch_layer().items()}
    made = bnspec.convert(given, source="torch", target="haiku", count=4)
    assert {type(v) for v in made.values()} == {type(v) for v in given.values()}
    assert {str(made[n].dtype) for n in ("scale", "var_ema/hidden")} == {str(given["weight"].dtype)}


def test_collections_and_suffixes_of_one_layer() -> None:
    flat = layer_of("flax")
    nested = {"params": {n: flat[n] for n in ("scale", "bias")}, "batch_stats": {n: flat[n] for n in ("mean", "var")}}
    assert bits(bnspec.convert(nested, source="flax", target="keras")) == bits(layer_of("keras"))
    dump = {f"{name}:0": value for name, value in layer_of("tensorpack").items()}
    assert bits(bnspec.convert(dump, source="tensorpack", target="keras", count="keep")) == bits(layer_of("keras"))


def without(*names: str, **changed: Any) -> dict[str, Any]:
    return {n: v for n, v in (torch_layer() | changed).items() if n not in names}


WRONG = "It may belong to another layer or another framework; nothing was converted."


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (
            without("running_var"), ValueError,
            "layer '' has 'num_batches_tracked', 'running_mean' and not both 'running_mean' and 'running_var'; "
            "expected the running mean and the running variance of each layer [BN-STATE-5]. Load another copy, or "
            "choose the layers to convert by name.",
        ),
        (
            without(bias=np.zeros(4, np.float32)), ValueError,
            f"'bias' has shape (4,); expected 3 channels [BN-STATE-5]. {WRONG}",
        ),
        (
            without(weight=np.zeros((3, 1), np.float32)), ValueError,
            f"'weight' has shape (3, 1); expected shape (C,) [BN-STATE-5]. {WRONG}",
        ),
        (
            without(running_var=-np.ones(3, np.float32)), ValueError,
            "'running_var' has an element below 0; expected a variance or deviation, none below 0 [BN-STATE-5]. "
            + WRONG,
        ),
        (
            without(running_mean=np.zeros(3, np.int32)), TypeError,
            f"'running_mean' has dtype int32; expected one of {', '.join(FLOATING)} [BN-STATE-5]. {WRONG}",
        ),
        (
            without(num_batches_tracked=np.asarray(1.5)), TypeError,
            f"'num_batches_tracked' has dtype float64 and shape (); expected an integer [BN-STATE-5]. {WRONG}",
        ),
        (
            without(num_batches_tracked=np.asarray(-1)), ValueError,
            f"'num_batches_tracked' has a number below 0; expected the number of updates [BN-STATE-5]. {WRONG}",
        ),
        (
            without(kernel=np.zeros(3)), ValueError,
            "arrays that make 1 layers, and the unknown 'kernel'; expected those of one layer of torch, by names such "
            "as 'running_mean' [BN-STATE-5]. `bnspec convert` finds the layers of a whole checkpoint.",
        ),
        (
            {f"bn.{n}": v for n, v in torch_layer().items()}, ValueError,
            "arrays that make 1 layers called 'bn'; expected those of one layer of torch, by names such as "
            "'running_mean' [BN-STATE-5]. `bnspec convert` finds the layers of a whole checkpoint.",
        ),
        (
            without(weight=[1.0, 2.0, 3.0]), TypeError,
            "'weight' is a list; expected an array [BN-STATE-5]. Convert it first, for example with numpy.asarray.",
        ),
    ],
)  # fmt: skip
def test_bad_layers_are_refused_by_name(given: dict[str, Any], kind: type[Exception], text: str) -> None:
    with refused(kind, text, given):
        bnspec.convert(given, source="torch", target="flax", count="keep")


def test_a_layer_of_equinox_without_updates_is_refused() -> None:
    given = layer_of("equinox") | {"first_time": np.asarray(True)}
    with refused(
        ValueError,
        "'first_time' has true; expected false: a layer without updates holds no statistics [BN-STATE-5]. " + WRONG,
        given,
    ):
        bnspec.convert(given, source="equinox", target="flax")


def test_counters_of_one_layer_that_differ_are_refused() -> None:
    given = layer_of("haiku") | {"var_ema/counter": np.asarray(9)}
    with refused(
        ValueError,
        "'var_ema/counter' has another number of updates; expected one number for the whole layer [BN-STATE-5]. "
        + WRONG,
        given,
    ):
        bnspec.convert(given, source="haiku", target="flax")


@pytest.mark.parametrize(
    ("options", "kind", "clause"),
    [
        ({"target": "caffe"}, LookupError, "BN-ERR-5"),
        ({"source": 3}, LookupError, "BN-ERR-5"),
        ({"count": 1}, ValueError, "BN-RUN-3"),
        ({"count": "all"}, ValueError, "BN-RUN-3"),
        ({"count": 2.5}, TypeError, "BN-RUN-3"),
        ({"decay": 1.5}, ValueError, "BN-RUN-1"),
        ({"rank": 1}, ValueError, "BN-SHAPE-1"),
        ({"axis": 4}, ValueError, "BN-SHAPE-2"),
        ({"axis": "1"}, TypeError, "BN-SHAPE-2"),
        ({"target": "haiku", "source": "keras", "decay": 1.0}, ValueError, "BN-RUN-7"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], kind: type[Exception], clause: str) -> None:
    given = layer_of(options.get("source", "torch") if options.get("source") != 3 else "torch")
    with pytest.raises(kind, match=rf"\[{clause}\]"):
        bnspec.convert(given, **({"source": "torch", "target": "flax", "count": "keep"} | options))


def test_arrays_of_two_libraries_are_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    given = without(bias=strict.zeros(3, dtype=strict.float32))
    with pytest.raises(TypeError, match=r"'bias' is an array of array_api_strict beside those of numpy.*\[BN-ERR-3\]"):
        bnspec.convert(given, source="torch", target="flax")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.99, 0.0, 1.0, 0.3])
def test_momentum_there_and_back_is_the_number_that_was_written(name: str, momentum: float) -> None:
    row = bnspec.dialects[name]
    assert row.momentum_of(row.decay_of(momentum)) == pytest.approx(momentum, abs=2.0**-53)
    assert bnspec.dialects.torch.momentum_of(row.decay) == {0.9: 0.1, 0.99: 0.01}[row.decay]
