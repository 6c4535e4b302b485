"""`bnspec.linen.BatchNorm` and `bnspec.nnx.BatchNorm` beside flax's own: numbers, variables, options, ranks."""

import doctest
import importlib
from typing import Any

import numpy as np
import pytest

import bnspec

jax = pytest.importorskip("jax", reason="jax is not installed")
flax = pytest.importorskip("flax", reason="flax is not installed")
jnp = jax.numpy

X = np.random.default_rng(0).standard_normal((8, 6, 4)).astype(np.float32) * 2 + 1


def modules() -> tuple[Any, Any, Any, Any]:
    """Our two, and flax's."""
    import flax.linen
    import flax.nnx

    import bnspec.linen
    import bnspec.nnx

    return bnspec.linen.BatchNorm, bnspec.nnx.BatchNorm, flax.linen.BatchNorm, flax.nnx.BatchNorm


def close(found: Any, wanted: Any, *, places: float = 2e-6) -> None:
    """Equal within roundoffs of float32, and of one structure."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(v).astype(np.float64) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=places, atol=places * max(1.0, float(np.max(np.abs(b), initial=0))))


def run_linen(kind: Any, x: Any, arguments: dict[str, Any], variables: Any = None, mask: Any = None) -> Any:
    """Variables, y and the gradients of a loss, the new statistics, and y by them."""
    module = kind(**arguments)
    variables = module.init(jax.random.key(0), x, False) if variables is None else variables

    def loss(params: Any, x: Any) -> Any:
        given = {**variables, "params": params}
        y, new = module.apply(given, x, False, mask=mask, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 3).sum(), (y, new)

    (_, (y, new)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), x)
    return variables, y, grads, new, module.apply({**variables, **new}, x, True)


def run_nnx(kind: Any, x: Any, arguments: dict[str, Any], state: Any = None, mask: Any = None) -> Any:
    """The same of a module with a state of its own."""
    from flax import nnx

    module = kind(x.shape[arguments.get("axis", -1)], rngs=nnx.Rngs(0), **arguments)
    if state is not None:
        nnx.update(module, state)
    before = jax.tree.map(jnp.copy, nnx.state(module))

    def loss(module: Any, x: Any) -> Any:
        y = module(x, mask=mask)
        return (y.astype(jnp.float32) ** 3).sum(), y

    (_, y), grads = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(module, x)
    after = jax.tree.map(jnp.copy, nnx.state(module))
    module.eval()
    return before, y, grads, after, module(x)


RUN = {"linen": run_linen, "nnx": run_nnx}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "as it comes": ("float32", {}),
    "channels first": ("float32", {"axis": 1, "momentum": 0.75, "epsilon": 1e-3}),
    "no scale": ("float32", {"use_scale": False}),
    "no parameters": ("float32", {"use_scale": False, "use_bias": False}),
    "16 bits in": ("bfloat16", {}),
    "16 bits throughout": ("float32", {"dtype": "bfloat16"}),
    "16 bits in and out": ("bfloat16", {"dtype": "bfloat16", "param_dtype": "bfloat16"}),
}


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize("case", CASES)
def test_numbers_and_variables_are_flaxs(framework: str, case: str) -> None:
    dtype, arguments = CASES[case]
    arguments = {k: getattr(jnp, v) if k.endswith("dtype") else v for k, v in arguments.items()}
    x = jnp.asarray(X).astype(dtype)
    ours, theirs = modules()[framework == "nnx" :: 2]
    narrow = "16" in case
    found, wanted = (RUN[framework](kind, x, arguments | {"use_fast_variance": False}) for kind in (ours, theirs))
    close(found[0], wanted[0])
    close(found[3], wanted[3], places=2e-2 if narrow and framework == "nnx" else 2e-6)  # nnx has 16-bit statistics
    for part in (1, 2, 4):  # flax rounds each step to 16 bits where bnspec rounds once
        close(found[part], wanted[part], places=4e-2 if narrow else 2e-5)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_a_checkpoint_of_one_is_one_of_the_other(framework: str) -> None:
    import flax.serialization

    x = jnp.asarray(X)
    ours, theirs = modules()[framework == "nnx" :: 2]
    for first, second in ((ours, theirs), (theirs, ours)):
        start, *_, new, _ = RUN[framework](first, x, {})
        trained = {**start, **new} if framework == "linen" else new
        if framework == "linen":  # through a file's bytes
            trained = flax.serialization.from_bytes(start, flax.serialization.to_bytes(trained))
        again, other = (RUN[framework](kind, x, {}, trained) for kind in (first, second))
        close(other[0], again[0])
        for part in (1, 3, 4):
            close(other[part], again[part])


def test_a_model_has_the_names_that_it_has_with_flax() -> None:
    import flax.linen as nn

    linen, _, own, _ = modules()

    def model(kind: Any) -> Any:
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x: Any, train: bool) -> Any:
                x = kind(use_running_average=not train)(nn.Dense(5)(x))
                return kind(use_running_average=not train, name="last")(x)

        return Model().init(jax.random.key(1), jnp.asarray(X), True)

    close(model(linen), model(own))
    assert sorted(model(linen)["batch_stats"]) == ["BatchNorm_0", "last"]
    assert issubclass(linen, own)


def test_masks_are_read_as_flax_reads_them() -> None:
    """Last axes side by side, also where the batch and the channels have one extent; any number counts as true."""
    linen, nnx, theirs, _ = modules()
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 4, 4)), jnp.float32)
    every = np.random.default_rng(2).integers(0, 2, (4, 4, 4))
    every[0] = 1
    for mask in (every, every[1] + every[0], every[..., :1], (every[0, 0] * 3)):
        found, wanted = (run_linen(kind, x, {"use_fast_variance": False}, mask=mask) for kind in (linen, theirs))
        for part in (1, 3):
            close(found[part], wanted[part], places=1e-5)
        close(run_nnx(nnx, x, {}, mask=mask)[1], wanted[1], places=1e-5)
    with pytest.raises(ValueError, match=r"a mask of shape \(3, 4\) for x of shape \(4, 4, 4\).*\[BN-MASK-7\]"):
        run_linen(linen, x, {}, mask=np.ones((3, 4)))
    lengths = jnp.asarray([4, 2, 1, 0])
    module = linen(use_running_average=False)
    by_lengths = module.apply(module.init(jax.random.key(0), x), x, lengths=lengths, mutable=["batch_stats"])
    steps = (np.arange(4)[None] < np.asarray(lengths)[:, None])[..., None]
    close(by_lengths, tuple(run_linen(linen, x, {}, mask=steps)[i] for i in (1, 3)))


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize(
    "options",
    [
        {"virtual_batch_size": 4, "ghost_source": "merged", "correction": 1},
        {"averaging": "debiased"},
        {"averaging": "pooled", "virtual_batch_size": 2},
        {"renorm": bnspec.Renorm(rmax=1.5, dmax=0.5)},
        {"renorm": bnspec.Renorm(form="paper", rmax=1.5, dmax=0.5), "nonfinite": "skip"},
    ],
)
def test_options_are_those_of_the_functions(framework: str, options: dict[str, Any]) -> None:
    x = jnp.asarray(X)
    ours = modules()[framework == "nnx"]
    start, y, _, new, predicted = RUN[framework](ours, x, options)
    config = bnspec.dialects.flax.config(sync_weighting="count", **options)
    params, state = bnspec.init(config, channels=4, like=x)
    want, after = bnspec.apply(x, params, state, config, train=True)
    stats = [v["batch_stats"] if framework == "linen" else v for v in (start, new)]
    held = [{k: v[k] if framework == "linen" else v[k][...] for k in v if k not in ("scale", "bias")} for v in stats]
    for found, wanted in zip(held, (state, after), strict=True):
        close(dict(found), {k: v for k, v in wanted._asdict().items() if v is not None})
    close(y, want)
    close(predicted, bnspec.batch_norm_inference(x, params, after, config)[0])


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_a_schedule_makes_no_new_trace(framework: str) -> None:
    from flax import nnx

    ours, x, traces = modules()[framework == "nnx"], jnp.asarray(X), []
    renorm = bnspec.Renorm(rmax=1.0, dmax=0.0)
    found = []
    if framework == "linen":
        module = ours(use_running_average=False, renorm=renorm)
        variables = module.init(jax.random.key(0), x)

        @jax.jit
        def step(variables: Any, schedule: Any) -> Any:
            traces.append(schedule)
            return module.apply(variables, x, schedule=schedule, mutable=["batch_stats"])[0]

        found = [step(variables, bnspec.Schedule(rmax=r, decay=0.5)) for r in (1.0, 1.5)]
    else:

        @nnx.jit
        def call(layer: Any, schedule: Any) -> Any:
            traces.append(schedule)
            return layer(x, schedule=schedule)

        found = [call(ours(4, renorm=renorm, rngs=nnx.Rngs(0)), bnspec.Schedule(rmax=r, decay=0.5)) for r in (1.0, 1.5)]
    assert len(traces) == 1
    assert float(jnp.max(jnp.abs(found[1]) / jnp.abs(found[0]))) == pytest.approx(1.5, rel=1e-5)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_ranks_of_an_axis_are_merged_by_elements(framework: str) -> None:
    """Uneven masked ranks have the whole batch's statistics, and running statistics that are the same on all."""
    from flax import nnx

    ours, x = modules()[framework == "nnx"], jnp.asarray(X).reshape(4, 2, 6, 4)
    mask = (np.arange(12).reshape(1, 2, 6, 1) < np.asarray([12, 5, 1, 0]).reshape(4, 1, 1, 1)).astype(np.float32)

    def call(x: Any, mask: Any, **arguments: Any) -> Any:
        if framework == "linen":
            module = ours(use_running_average=False, **arguments)
            variables = module.init(jax.random.key(0), x)
            y, new = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
            return y, new["batch_stats"]["var"]
        layer = ours(4, rngs=nnx.Rngs(0), **arguments)
        return layer(x, mask=mask), layer.var[...]

    y, var = jax.vmap(lambda x, m: call(x, m, axis_name="ranks"), axis_name="ranks")(x, mask)
    want, whole = call(x.reshape(8, 6, 4), mask.reshape(8, 6, 1))
    close(y.reshape(8, 6, 4), want, places=1e-5)
    assert all(bytes(np.asarray(v)) == bytes(np.asarray(var[0])) for v in var)
    close(var[0], whole)
    pairs, _ = jax.vmap(
        lambda x, m: call(x, m, axis_name="ranks", axis_index_groups=[[0, 1], [2, 3]]), axis_name="ranks"
    )(x, mask)
    close(pairs[:2].reshape(4, 6, 4), call(x[:2].reshape(4, 6, 4), mask[:2].reshape(4, 6, 1))[0], places=1e-5)


def test_nnx_has_its_switches() -> None:
    from flax import nnx

    _, ours, _, theirs = modules()
    layer, x = ours(4, rngs=nnx.Rngs(0)), jnp.asarray(X)
    assert isinstance(layer, theirs)
    model = nnx.Sequential(layer)
    model.eval()
    mean = jnp.copy(layer.mean[...])
    assert bool((layer(x) == model(x)).all())
    assert bool((layer.mean[...] == mean).all())
    view = nnx.view(model, use_running_average=False)
    view(x)
    assert not bool((layer.mean[...] == mean).all())
    layer(x, use_running_average=False)
    with pytest.raises(TypeError, match=r"use_running_average is None; expected True or False \[BN-INF-2\]"):
        ours(4, rngs=nnx.Rngs(0), use_running_average=None)(x)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"momentum": 1.5}, r"decay is 1.5; expected a number in \[0, 1\] \[BN-RUN-1\]"),
        ({"epsilon": -1.0}, r"epsilon is -1.0.*BN-NORM-1"),
        ({"axis": (1, 2)}, r"axis=\(1, 2\); expected one channel axis \[BN-SHAPE-2\]"),
        ({"virtual_batch_size": 0}, r"virtual_batch_size is 0.*BN-GRP-3"),
        ({"renorm": 2.0}, r"renorm is 2.0; expected a bnspec.Renorm or None"),
        ({"averaging": "debiased", "renorm": bnspec.Renorm(rmax=2, dmax=1)}, r"renorm with averaging='debiased'"),
        ({"axis_index_groups": [[0]]}, r"axis_index_groups without axis_name.*BN-SYNC-9"),
        ({"axis_name": "a", "axis_index_groups": [[0], [1, 2]]}, r"axis_index_groups is .*BN-SYNC-9"),
        ({"virtual_batch": 2}, "virtual_batch"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_written(framework: str, arguments: dict[str, Any], text: str) -> None:
    from flax import nnx

    ours = modules()[framework == "nnx"]
    with pytest.raises((TypeError, ValueError), match=text):
        ours(**arguments) if framework == "linen" else ours(4, rngs=nnx.Rngs(0), **arguments)


def test_bad_calls_are_refused() -> None:
    linen, _, _, _ = modules()
    x, module = jnp.asarray(X), linen(use_running_average=False, virtual_batch_size=3, name="bn1")
    variables = module.init(jax.random.key(0), x)  # a batch of any size makes variables
    with pytest.raises(ValueError, match=r"virtual_batch_size=3 and 8 samples.*BN-GRP-3"):
        module.apply(variables, x, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"axis=3 for x of shape.*BN-SHAPE-2"):
        linen(use_running_average=False, axis=3).init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"x has dtype int32.*BN-SHAPE-5"):
        linen(use_running_average=False, dtype=jnp.int32).init(jax.random.key(0), jnp.ones((2, 3), jnp.int32))
    named = linen(use_running_average=False, axis_name="ranks")
    with pytest.raises(TypeError, match=r"outside of a transformation that has it.*BN-SYNC-9"):
        named.apply(named.init(jax.random.key(0), x), x, mutable=["batch_stats"])


@pytest.mark.parametrize("name", ["linen", "nnx", "jax_options"])
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"bnspec_backends.modules.{name}"))
    assert found.attempted
    assert not found.failed
