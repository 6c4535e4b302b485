"""Options: scalars of any library are numbers, nothing else is, and a refusal names what was written."""

import enum
import fractions
import json
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest

import bnspec
from bnspec._checks.scalars import plain, shown

VALID = {"axis": 1, "epsilon": 1e-3, "decay": 0.5, "correction": 0}
NAN, INF = float("nan"), float("inf")


def _named(value: Any) -> Any:
    return shown(value)[:40]


class Word(enum.StrEnum):
    POOLED = "pooled"


def made(**fields: Any) -> Any:
    return bnspec.BatchNormConfig(**(VALID | fields))


@pytest.mark.parametrize(
    ("field", "written", "stored"),
    [
        ("axis", np.int64(-1), -1),
        ("axis", np.uint8(1), 1),
        ("axis", np.asarray(1), 1),
        ("epsilon", np.float32(0.25), 0.25),
        ("epsilon", np.float16(0.25), 0.25),
        ("epsilon", np.float64(0.25), 0.25),
        ("epsilon", np.asarray(0.25, np.float32), 0.25),
        ("epsilon", array_api_strict.asarray(0.25), 0.25),
        ("epsilon", np.int32(1), 1.0),
        ("epsilon", 1, 1.0),
        ("epsilon", fractions.Fraction(1, 4), 0.25),
        ("decay", np.float32(0.1), float(np.float32(0.1))),
        ("decay", np.int64(1), 1.0),
        ("correction", np.int64(1), 1),
        ("virtual_batch_size", np.int16(4), 4),
        ("center", np.bool_(False), False),
        ("scale", np.asarray(False), False),
        ("averaging", np.str_("pooled"), "pooled"),
        ("averaging", Word.POOLED, "pooled"),
    ],
)
def test_a_scalar_of_another_library_is_stored_as_pythons_own(
    field: str, written: Any, stored: bool | float | int | str
) -> None:
    config = made(**{field: written})
    held = getattr(config, field)
    assert (type(held), held) == (type(stored), stored)
    assert config == made(**{field: stored})
    assert hash(config) == hash(made(**{field: stored}))
    assert repr(config) == repr(made(**{field: stored}))
    assert bnspec.BatchNormConfig.from_json(config.to_json()) == config


def test_scalars_of_torch_and_jax_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    for scalar in (torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float16), jax.numpy.asarray(0.25)):
        assert made(epsilon=scalar).epsilon == 0.25
    traced = []

    def inside(value: Any) -> Any:
        with pytest.raises(TypeError) as caught:
            made(epsilon=value)
        traced.append(str(caught.value))
        return value

    jax.jit(inside)(0.25)
    assert traced[0].startswith("epsilon is an array of shape () and dtype float32; expected a finite number >= 0")
    with pytest.raises(TypeError, match=r"epsilon is an array of shape \(2,\) and dtype float32; expected"):
        made(epsilon=torch.ones(2))


@pytest.mark.parametrize("field", ["rmax", "dmax", "decay"])
def test_renorm_takes_scalars_too(field: str) -> None:
    config = bnspec.Renorm(**({"rmax": 2.0, "dmax": 1.0} | {field: np.float32(1)}))
    assert (type(getattr(config, field)), getattr(config, field)) == (float, 1.0)
    assert bnspec.BatchNormConfig.from_json(made(renorm=config).to_json()).renorm == config


def test_a_layer_and_a_dialect_take_scalars() -> None:
    x = np.asarray([[1.0], [3.0]])
    one = bnspec.BatchNorm(axis=np.int64(-1), epsilon=np.float32(3), decay=np.float64(0.75), dialect="torch")
    other = bnspec.BatchNorm(axis=-1, epsilon=3.0, decay=0.75, dialect="torch")
    assert one(x).tolist() == other(x).tolist()
    assert bnspec.BatchNorm(momentum=np.float32(0.25), dialect="torch").config_for(x).decay == 0.75
    assert bnspec.dialects.torch.config(momentum=np.float32(0.25)) == bnspec.dialects.torch.config(momentum=0.25)
    assert bnspec.dialects.tensorpack.config(decay=np.float32(0.5), dtype="float64").decay == 0.5


NUMBERS = [NAN, INF, -INF, "1", True, np.bool_(True), None, 1j, b"1", [1.0], (1.0,), {}, object(), np.complex64(1),
           np.asarray([1.0]), np.asarray(True), np.asarray("1"), np.datetime64("now"), 10**400, -(10**400)]  # fmt: skip
BAD = {
    "axis": ("BN-SHAPE-2", [1.0, NAN, "1", True, np.bool_(True), None, np.float32(1), np.asarray([1]), (1,), 1.5]),
    "epsilon": ("BN-NORM-1", [-1, -1e-5, np.float32(-1), *NUMBERS]),
    "decay": ("BN-RUN-1", [-0.1, 1.5, 2, np.float32(1.5), -1, *NUMBERS]),
    "correction": ("BN-RUN-3", [2, -1, True, np.bool_(True), 0.0, 1.0, NAN, "1", None, np.float32(1), np.asarray([1])]),
    "virtual_batch_size": ("BN-GRP-3", [0, -1, 2.0, True, "2", NAN, np.float32(2), np.asarray([2]), np.int64(0)]),
    "center": ("BN-NORM-2", [0, 1, 1.0, "False", None, np.int64(1), np.asarray([True]), []]),
    "scale": ("BN-NORM-2", [0, 1, 1.0, "True", None, np.asarray(1), np.asarray([True, False])]),
    "averaging": ("BN-RUN-1", ["ema", "", None, 1, b"pooled", ["pooled"], {"pooled"}, np.asarray(["pooled"] * 2)]),
    "ghost_source": ("BN-RUN-8", ["last", None, 0, np.asarray(["first"])]),
    "sync_weighting": ("BN-SYNC-8", ["sample", None, True]),
    "single_value": ("BN-RUN-4", ["ignore", None, ("raise",)]),
    "nonfinite": ("BN-RUN-10", ["drop", None, object()]),
    "renorm": ("BN-RENORM-1", [True, "paper", {"rmax": 1}, np.zeros((100, 100))]),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, values) in BAD.items() for v in values], ids=_named)  # type: ignore[attr-defined]
def test_every_option_refuses_what_is_out_of_its_range_by_its_name(field: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        made(**{field: value})
    text = str(caught.value)
    assert text.startswith(f"{field} is {shown(value)}; expected ")
    assert f"[{BAD[field][0]}]" in text
    assert len(text) < 400


@pytest.mark.parametrize("field", ["rmax", "dmax", "decay"])
@pytest.mark.parametrize("value", [-1e-9 - 1e-3, *NUMBERS], ids=_named)
def test_renorm_refuses_by_name(field: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        bnspec.Renorm(**({"rmax": 2.0, "dmax": 1.0} | {field: value}))
    assert str(caught.value).startswith(f"{field} is {shown(value)}; expected ")
    assert "[BN-RENORM-" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.arange(10.0), "an array of shape (10,) and dtype float64"),
        (np.zeros((1000, 1000), np.float16), "an array of shape (1000, 1000) and dtype float16"),
        (array_api_strict.zeros((2, 3)), "an array of shape (2, 3) and dtype array_api_strict.float64"),
        (np.float32(0.5), "0.5"),
        (np.asarray(0.5), "0.5"),
        (np.asarray([0.5]), "an array of shape (1,) and dtype float64"),
        ([1.0] * 10**6, "a list of 1000000"),
        ("x" * 10**6, "'" + "x" * 56 + "..."),
        (10**5000, "a value of type int"),
        (object(), "a value of type object"),
        (None, "None"),
        ("\x1b[2J", "'\\x1b[2J'"),
    ],
    ids=_named,
)
def test_a_value_is_shown_in_few_words(value: Any, text: Any) -> None:
    assert shown(value) == text


def test_what_cannot_say_what_it_is_is_refused_all_the_same() -> None:
    class Odd:
        shape = ()

        def item(self) -> None:
            raise RuntimeError("not now")

        def __repr__(self) -> str:
            raise RuntimeError("not now")

    odd = Odd()
    assert plain(odd) is odd
    with pytest.raises(TypeError, match="epsilon is a value of type Odd; expected a finite number >= 0"):
        made(epsilon=odd)


# --- what the caller wrote --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bnspec.BatchNorm(axis=64, dialect="torch"), "axis=64 under the torch dialect; expected axis 1 "),
        (lambda: bnspec.dialects.torch.config(axis=64), "axis=64 under the torch dialect; expected axis 1 "),
        (lambda: bnspec.dialects.torch.config(axis=-1), "axis=-1 under the torch dialect; expected axis 1 "),
        (lambda: bnspec.dialects.onnx.config(axis=3), "axis=3 under the onnx dialect; expected axis 1 "),
        (lambda: bnspec.dialects.torch.config(momentum=1.5), "momentum is 1.5; expected a number in [0, 1] "),
        (lambda: bnspec.dialects.keras.config(momentum=-1), "momentum is -1; expected a number in [0, 1] "),
        (lambda: bnspec.dialects.torch.config(momentum=True), "momentum is True; expected a number in [0, 1] "),
        (lambda: bnspec.dialects.torch.config(momentum="0.1"), "momentum is '0.1'; expected a number in [0, 1] "),
        (
            lambda: bnspec.dialects.torch.config(momentum=np.ones(3)),
            "momentum is an array of shape (3,) and dtype float64; expected a number in [0, 1] ",
        ),
        (lambda: bnspec.BatchNorm(momentum=1.5, dialect="torch"), "momentum is 1.5; expected a number in [0, 1] "),
        (lambda: bnspec.BatchNorm(momentum=NAN), "momentum is nan; expected a number in [0, 1] "),
        (lambda: bnspec.BatchNorm(use_bias="no"), "use_bias is 'no'; expected True or False "),
        (lambda: bnspec.BatchNorm(use_scale=1), "use_scale is 1; expected True or False "),
        (lambda: bnspec.BatchNorm(data_format=np.asarray(["NHWC"] * 2)), "data_format is an array of shape (2,) and"),
        (lambda: bnspec.dialects[np.asarray(["torch"] * 2)], "unknown dialect an array of shape (2,) and dtype <U5; "),
        (lambda: bnspec.dialects[["torch"]], "unknown dialect a list of 1; expected one of bnspec, "),
    ],
)
def test_a_refusal_speaks_of_what_was_written(call: Callable[..., Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)) as caught:
        call()
    assert (caught.value.args[0]).startswith(text)


@pytest.mark.parametrize("text", ["[" * 10_000, None, 3, b"\xff", '{"axis": 1}', json.dumps(VALID | {"renorm": 3})])
def test_what_is_no_configuration(text: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        bnspec.BatchNormConfig.from_json(text)
    assert "[BN-STATE-6]" in str(caught.value)


def test_minus_zero_is_zero() -> None:
    assert made(decay=-0.0).decay == 0
    assert made(epsilon=-0.0).epsilon == 0
