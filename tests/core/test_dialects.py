"""The rows of `bnspec.dialects`: consistent, and what they say of PyTorch and tensorpack is so."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from spec_tables import rows

import bnspec

ROWS = {row.name: row for row in bnspec.dialects}
TENSORPACK = bnspec.dialects.tensorpack
RNG = np.random.default_rng(3)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_complete_and_gives_a_configuration(name: str) -> None:
    row = ROWS[name]
    assert row is bnspec.dialects[name] is getattr(bnspec.dialects, name)
    assert set(row.names) == {"gamma", "beta", "mean", "var", "count"}
    assert len(set(row.names.values())) == 5
    if row.renorm_names is not None:
        assert set(row.renorm_names) == {"gamma", "beta", *bnspec.RunningState._fields} - {"count"}
    config = row.config()
    kept = ("epsilon", "decay", "averaging", "ghost_source", "sync_weighting", "single_value", "correction", "axis")
    assert [getattr(config, field) for field in kept] == [getattr(row, field) for field in kept]
    assert config == bnspec.BatchNormConfig.from_json(config.to_json())
    assert row.config(momentum=0.25).decay == (0.25 if row.momentum_weighs == "old" else 0.75)
    assert row.config(decay=0.25).decay == 0.25
    changed = row.config(epsilon=0.5, correction=0, averaging="pooled", center=False, single_value="keep")
    assert changed == dataclasses.replace(
        config, epsilon=0.5, correction=0, averaging="pooled", center=False, single_value="keep"
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_layer_of_the_dialect_has_its_axis_and_names(name: str) -> None:
    row = ROWS[name]
    layer = bnspec.BatchNorm(dialect=name, ema_update="internal")
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert layer(x).shape == x.shape
    channels = x.shape[row.axis]
    fields = ["beta", "gamma", "mean", "var"] + (["count"] if row.averaging != "exponential" else [])
    assert {n: v.shape for n, v in layer.variables.items()} == {row.names[field]: (channels,) for field in fields}
    other = bnspec.BatchNorm(dialect=name, ema_update="internal", data_format="NCHW")
    other(x)
    assert other.state.mean.shape == (3,)


@pytest.mark.parametrize("name", ROWS)
def test_renorm_has_names_under_every_dialect(name: str) -> None:
    layer = bnspec.BatchRenorm(2.0, 1.0, dialect=name, ema_update="internal", averaging="exponential")
    layer(np.zeros((2, 3, 4, 5), np.float32))
    assert len(layer.variables) == 7
    other = bnspec.BatchRenorm(2.0, 1.0, dialect=name, ema_update="internal", averaging="exponential")
    other.load_state_dict(layer.state_dict())
    assert bits(other.variables) == bits(layer.variables)


@pytest.mark.parametrize(("axis", "rank"), [(-3, 4), (-1, 2), (1, 4)])
def test_a_negative_axis_means_what_it_means_for_the_rank_of_x(axis: int, rank: int) -> None:
    x = RNG.normal(size=(2, 3, 4, 5)[:rank]).astype(np.float32)
    for name in ("torch", "onnx"):
        layer = bnspec.BatchNorm(axis=axis, dialect=name)
        layer(x)
        assert layer.state.mean.shape == (3,)


def test_the_rows_are_in_a_fixed_order_and_bnspec_comes_first() -> None:
    assert bnspec.dialects.names() == tuple(ROWS)
    assert next(iter(ROWS)) == "bnspec"
    with pytest.raises(AttributeError, match="unknown dialect 'caffe'"):
        _ = bnspec.dialects.caffe
    assert not hasattr(bnspec.dialects, "__wrapped__")


# --- the appendix of SPEC.md ------------------------------------------------------------------------------------------

#: Rows that nothing measures: no subject has them, and no recorded results.
FROM_DOCUMENTATION = {"mxnet", "chainer", "nnabla"}


@pytest.mark.pages
def test_the_appendix_has_the_rows_and_says_which_nothing_measures() -> None:
    title = "Appendix: the words of each framework"
    lines = {cells[0]: cells for cells in rows(title, "| dialect | what was looked at |")}
    assert [*lines] == [name for name in ROWS if name != "bnspec"]
    known = {name: cells[-1] for name, cells in lines.items()}
    assert {name for name, source in known.items() if source == "from documentation"} == FROM_DOCUMENTATION
    assert {name for name, source in known.items() if source == "recorded results"} == {"tensorpack"}
    for name, row in ROWS.items():
        if name != "bnspec":
            assert f"{row.epsilon:g}" in lines[name]
            assert ("1 - decay" in lines[name]) == (row.momentum_weighs == "new")


# --- tensorpack -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "correction"),
    [
        ({"rank": 4, "dtype": "float32"}, 1),
        ({"rank": 4, "dtype": "float16", "axis": 1}, 1),
        ({"rank": 4, "dtype": "float64"}, 0),
        ({"rank": 2, "dtype": "float32"}, 0),
        ({"rank": 4, "dtype": "float32", "sync": True}, 0),
        ({"rank": 4, "dtype": "float32", "virtual_batch_size": 2}, 0),
        ({"rank": 4, "dtype": "float32", "renorm": bnspec.Renorm(rmax=2.0, dmax=1.0)}, 0),
    ],
)
@pytest.mark.parametrize("name", ["tensorpack", "tf_keras"])
def test_the_fused_path_alone_corrects_the_variance(name: str, options: dict[str, Any], correction: int) -> None:
    config = ROWS[name].config(**options)
    assert (config.correction, config.single_value) == (correction, "floor")
    x = np.zeros((4, 3, 3, 3)[: options["rank"]], options["dtype"])
    layer = bnspec.BatchNorm(
        axis=options.get("axis"),
        dialect=name,
        virtual_batch_size=options.get("virtual_batch_size"),
        renorm=options.get("renorm"),
    )
    if not options.get("sync"):
        assert layer.config_for(x).correction == correction


def test_one_element_feeds_the_variance_0_in_the_fused_path() -> None:
    layer = bnspec.BatchNorm(dialect="tensorpack", ema_update="internal")
    layer(np.ones((1, 1, 1, 2), np.float32))
    assert layer.variables["variance/EMA"].tolist() == pytest.approx([0.9, 0.9])


def test_the_decay_of_float64_passes_through_float32() -> None:
    assert TENSORPACK.config(dtype="float64").decay == 0.8999999985098839
    assert TENSORPACK.config(dtype="float32").decay == 0.9
    assert TENSORPACK.config(dtype="float64", decay=0.5).decay == 0.5
    assert bnspec.dialects.bnspec.config(dtype="float64").decay == 0.9
    layer = bnspec.BatchNorm(dialect="tensorpack")
    assert layer.config_for(np.zeros((2, 3, 3, 3))).decay == 0.8999999985098839


@pytest.mark.parametrize(
    ("kind", "options", "clause"),
    [
        (ValueError, {"rank": 3}, "BN-SHAPE-1"),
        (ValueError, {"rank": 5}, "BN-SHAPE-1"),
        (ValueError, {"axis": 2}, "BN-SHAPE-2"),
        (ValueError, {"axis": 0, "rank": 2}, "BN-SHAPE-2"),
        (ValueError, {"virtual_batch_size": 2, "sync": True}, "BN-SYNC-5"),
        (TypeError, {"virtual_batch_size": 2, "dtype": "float64"}, "BN-PREC-1"),
        (TypeError, {"sync": True, "dtype": "float64"}, "BN-PREC-1"),
        (TypeError, {"momentum": 0.5, "decay": 0.5}, "BN-RUN-1"),
        (TypeError, {"momentum": "0.5"}, "BN-RUN-1"),
        (ValueError, {"momentum": 1.5}, "BN-RUN-1"),
        (TypeError, {"axis": "1"}, "BN-SHAPE-2"),
    ],
)
def test_what_tensorpack_refuses(kind: Any, options: dict[str, Any], clause: str) -> None:
    with pytest.raises(kind, match=rf"\[{clause}\]"):
        TENSORPACK.config(**options)


def test_bnspec_itself_refuses_none_of_that() -> None:
    for rank in (2, 3, 5):
        assert bnspec.dialects.bnspec.config(rank=rank, axis=0).axis == 0
    config = bnspec.dialects.bnspec.config(virtual_batch_size=2, sync=True, dtype="float64")
    assert config.virtual_batch_size == 2


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("affine", [True, False])
def test_training_steps_are_those_of_torch(momentum: float | None, affine: bool) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(4, momentum=momentum, affine=affine, dtype=torch.float64)
    how = {"averaging": "cumulative"} if momentum is None else {"decay": 1 - momentum}
    ours = bnspec.BatchNorm(dialect="torch", center=affine, scale=affine, **how)
    for _ in range(3):
        x = torch.asarray(RNG.normal(2.0, 3.0, size=(5, 4, 3, 2))).requires_grad_()
        dy = torch.asarray(RNG.normal(size=x.shape))
        y = ours(x.detach())
        expected = theirs(x)
        expected.backward(dy)
        torch.testing.assert_close(y, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.backward(dy), x.grad, rtol=1e-11, atol=1e-12)
        state = theirs.state_dict()
        counted = state.pop("num_batches_tracked")
        count = ours.variables.get("num_batches_tracked")
        if momentum is None:  # torch keeps one number, bnspec one per channel
            assert count.tolist() == [counted.item()] * 4
        else:
            assert count is None
        variables = {name: v for name, v in ours.variables.items() if name != "num_batches_tracked"}
        assert set(variables) == set(state)
        for name, value in variables.items():
            torch.testing.assert_close(value, state[name], rtol=1e-12, atol=1e-12, msg=name)
    theirs.eval()
    torch.testing.assert_close(ours.eval()(x.detach()), theirs(x.detach()), rtol=1e-12, atol=1e-12)


def test_the_torch_row_refuses_what_torch_refuses() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones((1, 3), dtype=torch.float64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm1d(3, dtype=torch.float64)(x)
    with pytest.raises(ValueError, match="BN-RUN-4"):
        bnspec.BatchNorm(dialect="torch")(x)
    with pytest.raises(ValueError, match="BN-SHAPE-2"):
        bnspec.BatchNorm(axis=-1, dialect="torch")(torch.ones((2, 3, 4)))
