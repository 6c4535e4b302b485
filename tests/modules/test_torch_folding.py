"""Folding in models of torch: every kind of layer, what cannot be folded and why, and that the model stays."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec import torch as ours  # noqa: E402 - after torch was found
from bnspec_backends.modules.torch import fold_check, foldable  # noqa: E402

nn: Any = torch.nn
U32 = 2.0**-24


def trained(module: Any, seed: int = 0) -> Any:
    """Give a model's parameters and statistics numbers of their own."""
    generator = torch.Generator().manual_seed(seed)

    def fill(v: Any, least: float) -> None:
        v.copy_(torch.rand(v.shape, generator=generator) * 2 + least)

    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                if m.running_mean is not None:
                    fill(m.running_mean, -1)
                    fill(m.running_var, 0.5)
                for v in (m.weight, m.bias):
                    if v is not None:
                        fill(v, -1)
                if getattr(m, "running_count", None) is not None:
                    m.running_count.fill_(5)
    return module


def agree(model: Any, folded: Any, x: Any) -> None:
    """In float64, to what rounding every kernel to float32 leaves."""
    want = copy.deepcopy(model).eval().double()(x.double())
    got = copy.deepcopy(folded).double()(x.double())
    scale = want.abs().max().item() + 1
    torch.testing.assert_close(got, want, rtol=0, atol=400 * U32 * scale)


CONVOLUTIONS = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3, "ConvTranspose1d": 1, "ConvTranspose2d": 2, "ConvTranspose3d": 3}


@st.composite
def pairs(draw: Any) -> tuple[Any, Any, bool]:
    """A model of a normalization and a convolution, its input, and whether the convolution comes second."""
    kind, following = draw(st.sampled_from(sorted(CONVOLUTIONS))), draw(st.booleans(), label="following")
    groups, dims, transposed = draw(st.sampled_from([1, 2, 4])), CONVOLUTIONS[kind], "Transpose" in kind
    inputs, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    single = following and transposed
    size = 1 if single else draw(st.sampled_from([1, 2, 3]), label="size")
    padding = 0 if following else draw(st.integers(0, 1), label="padding")
    torch.manual_seed(draw(st.integers(0, 99), label="seed"))
    layer = getattr(nn, kind)(
        inputs, outputs, size, stride=1 if single else draw(st.sampled_from([1, 2])), padding=padding, groups=groups,
        bias=draw(st.booleans(), label="bias"), dilation=draw(st.sampled_from([1, 2])),
    )  # fmt: skip
    norms = [getattr(nn, f"BatchNorm{dims}d"), getattr(ours, f"BatchNorm{dims}d"), nn.SyncBatchNorm]
    norm = draw(st.sampled_from(norms))(inputs if following else outputs, affine=draw(st.booleans(), label="affine"))
    x = torch.randn(2, inputs, *[6] * dims)
    return trained(nn.Sequential(norm, layer) if following else nn.Sequential(layer, norm)), x, following


@settings(deadline=None, max_examples=60)
@given(pair=pairs(), probed=st.booleans())
def test_convolutions_of_every_kind(pair: Any, probed: bool) -> None:
    model, x, following = pair
    found = ours.fold(model, x if probed else None)
    assert found.kept == {}
    assert list(found.folded) == ["0" if following else "1"]
    assert found.folded[next(iter(found.folded))].into == ("1" if following else "0")
    assert not any(foldable.is_norm(m) for m in found.model.modules())
    assert not found.model.training
    agree(model, found.model, x)


@pytest.mark.parametrize("following", [True, False])
@pytest.mark.parametrize("norm", ["BatchNorm1d", "axis=-1", "debiased"])
def test_linear_layers(norm: str, following: bool) -> None:
    made = {
        "BatchNorm1d": lambda: nn.BatchNorm1d(4, momentum=None),
        "axis=-1": lambda: ours.BatchNorm(4, axis=-1),
        "debiased": lambda: ours.BatchNorm1d(4, averaging="debiased", bias=False),
    }[norm]()
    x = torch.randn(5, 4)
    parts = [made, nn.Linear(4, 3)] if following else [nn.Linear(4, 4, bias=False), made]
    model = trained(nn.Sequential(*parts))
    found = ours.fold(model, x)
    assert found.kept == {}
    agree(model, found.model, x)
    if norm == "axis=-1":
        assert ours.fold(model).kept == {}
        longer = torch.randn(5, 7, 4)
        agree(model, ours.fold(model, longer).model, longer)
    else:
        assert "the rank of its input is not known without a probe" in next(iter(ours.fold(model).kept.values()))


def test_the_largest_error_is_told() -> None:
    model, x = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.randn(2, 3, 7, 7)
    found = ours.fold(model, x)
    told = found.folded["1"]
    want = copy.deepcopy(model).eval().double()(x.double())
    got = copy.deepcopy(found.model).double()(x.double())
    assert 0 < told.difference <= float(x.abs().max()) * told.kernel_error + told.bias_error
    assert float((got - want).detach().abs().max()) == pytest.approx(told.difference)


class Residual(nn.Module):  # type: ignore[misc]
    """Branches, a chain of normalizations, and one that stays since its sum has no layer beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU())
        self.skip = ours.BatchNorm2d(4)
        self.last = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout()

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        return self.last(self.dropout(self.body(x) + self.skip(x)))


def test_branches_and_chains() -> None:
    model, x = trained(Residual()), torch.randn(2, 3, 8, 8)
    before, version = copy.deepcopy(model.state_dict()), [v._version for v in model.parameters()]
    found = ours.fold(model, x)
    assert {k: v.into for k, v in found.folded.items()} == {
        "stem.1": "stem.2", "stem.0": "stem.2", "body.1": "body.0", "body.2": "body.0",
    }  # fmt: skip
    assert found.kept == {
        "skip": "before it: stem.2, whose result has 2 uses; after it: add, which is no module",
        "last": "before it: dropout: a Dropout is no convolution or linear layer of torch's own; "
        "after it: output, which is no module",
    }
    agree(model, found.model, x)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert version == [v._version for v in model.parameters()]


def hooked() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[1].register_forward_hook(lambda *_: None)
    return model


def reparametrized() -> Any:
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))


class Activated(nn.BatchNorm2d):  # type: ignore[misc]
    """A normalization of somebody's own."""


def shared_layer() -> Any:
    layer = nn.Conv2d(3, 3, 1)
    return nn.Sequential(layer, nn.BatchNorm2d(3), layer)


def flat() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, eps=0.0))
    trained(model)
    model[1].running_var[1] = 0
    return model


REASONS: dict[str, tuple[Callable[[], Any], str]] = {
    "zero padding": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)),
        "1: 0: shifts that are not 0, before a layer that pads with zeros; ",
    ),
    "same padding": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding="same")), "that pads with zeros",
    ),
    "transposed": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 3, 2, stride=2)), "that pads with zeros",
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        "it has no running statistics",
    ),
    "another axis": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), ours.BatchNorm(3, axis=-1)),
        "0: its channels are on axis -3, those of the normalization on axis -1",
    ),
    "a class of one's own": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Activated(3)), "its class, Activated, may do more",
    ),
    "hooks": (hooked, "the BatchNorm2d has hooks"),
    "parametrizations": (reparametrized, "has parametrizations|is no convolution"),
    "a shared layer": (shared_layer, "0, which is called 2 times"),
    "a variance of 0": (flat, "scale and shift that are not finite in float64, in channels \\[1\\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_what_stays_says_why(case: str) -> None:
    make, reason = REASONS[case]
    model = make() if case == "a variance of 0" else trained(make())
    found = ours.fold(model, torch.randn(2, 3, 3, 3))
    assert found.folded == {}
    (why,) = found.kept.values()
    assert re.search(reason, why), why
    assert sum(foldable.is_norm(m) for m in found.model.modules()) == 1


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_padding_by_values_of_the_image_is_no_obstacle(mode: str) -> None:
    model, x = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode))), None
    for x in (None, torch.randn(2, 3, 5, 5)):
        found = ours.fold(model, x)
        assert found.kept == {}
    agree(model, found.model, x)


def test_a_shift_of_zero_is_folded_before_zero_padding() -> None:
    model, x = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3, padding=1)), torch.randn(2, 3, 5, 5)
    model[0].running_var.fill_(4.0)
    found = ours.fold(model, x)
    assert found.kept == {}
    agree(model, found.model, x)


def test_a_wrong_fold_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison sees a kernel that is off by little more than rounding."""
    model, x = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.randn(2, 3, 7, 7)
    right = bnspec.fold_into_preceding

    def wrong(kernel: Any, *rest: Any, **more: Any) -> Any:
        folded = right(kernel, *rest, **more)
        return folded._replace(bias=folded.bias * (1 + 1e-5))

    monkeypatch.setattr(foldable, "fold_into_preceding", wrong)
    for probe in (x, None):
        found = ours.fold(model, probe)
        assert found.folded == {}
        assert "times what rounding explains" in found.kept["1"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(kind: Any) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).to(kind)
    found = ours.fold(model)
    assert found.kept == {}
    assert {v.dtype for v in found.model.parameters()} == {kind}


def test_gradients_and_devices_of_weights_stay() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert [p.requires_grad for p in ours.fold(model).model.parameters()] == [True, True]
    model.requires_grad_(False)
    assert [p.requires_grad for p in ours.fold(model).model.parameters()] == [False, False]


class Deciding(nn.Module):  # type: ignore[misc]
    """A path that depends on values."""

    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a Deciding that torch.fx cannot trace .*\[BN-ERR-5\]"):
        ours.fold(Deciding())


def test_absolute_values_bound_what_modules_add() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    parts = [[fold_check._of_absolutes(m, absolute) for m in model] for absolute in (False, True)]
    with torch.no_grad():
        plain, most = (second(first(v)) for (first, second), v in zip(parts, (x, x.abs()), strict=True))
    assert (plain.abs() <= most).all()
    assert (model[1].running_mean < 0).any()  # the model's own numbers keep their signs
