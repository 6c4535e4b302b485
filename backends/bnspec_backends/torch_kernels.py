"""Kernels for torch tensors on any device: the specification's formulas, as operations that torch differentiates well.

A call that torch records for a gradient is one node of its graph (`bnspec._torch.function`). Under
torch.func, forward mode and whatever else looks at single operations, the formulas are what is looked at.
"""

from typing import Any

from bnspec import BatchNormConfig, Groups, Kernels, Moments, Normalized, Params
from bnspec._modes import in_graph, one_node
from bnspec._torch.function import Call, inference_through_graph, through_graph

__all__ = ["TorchKernels"]


class TorchKernels(Kernels):
    """Kernels for every tensor; those of a device derive theirs and override what they have a better way for.

    A subclass computes in `_forward` and `_infer`, not in `forward` and `infer`, which decide how torch is to see the
    call.
    """

    #: The module that makes whole calls of torch's modules; None where each operation is to be this class's own.
    _whole_calls: Any = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_whole_calls" not in vars(cls):  # they would pass by what a subclass overrides
            cls._whole_calls = None

    def differentiable(self, *, plain_sums: bool) -> Kernels:
        return Kernels().differentiable(plain_sums=plain_sums)

    def forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        if in_graph(x, *params) and one_node(x, *params):
            return through_graph(self, self._forward, x, params, Call(config, groups, **more))
        return self._forward(x, params, config, groups, **more)

    def _forward(
        self, x: Any, params: Params, config: BatchNormConfig, groups: Groups, **more: Any
    ) -> tuple[Moments, Normalized]:
        """Compute what `forward` returns; torch may record each operation."""
        return super().forward(x, params, config, groups, **more)

    def infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        if in_graph(x, *params) and one_node(x, *params):
            return inference_through_graph(self, self._infer, x, params, mean, var, epsilon, groups)
        return self._infer(x, params, mean, var, epsilon, groups)

    def _infer(self, x: Any, params: Params, mean: Any, var: Any, epsilon: float, groups: Groups) -> Normalized:
        """Compute what `infer` returns; torch may record each operation."""
        return super().infer(x, params, mean, var, epsilon, groups)
