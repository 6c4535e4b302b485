"""A library that the suite does not know: one layer, in float32, with the channels last and a backward of its own."""

import numpy as np
import numpy.typing as npt

__all__ = ["BatchNorm"]

Array = npt.NDArray[np.float32]


class BatchNorm:
    """One call is forward and the update of the moving statistics."""

    def __init__(self, features: int, eps: float = 1e-3, momentum: float = 0.99) -> None:
        self.eps, self.momentum = np.float32(eps), np.float32(momentum)
        self.gamma, self.beta = np.ones(features, np.float32), np.zeros(features, np.float32)
        self.moving_mean, self.moving_var = np.zeros(features, np.float32), np.ones(features, np.float32)

    def __call__(self, x: Array, *, training: bool = False) -> Array:
        """Return y."""
        axes = tuple(range(x.ndim - 1))
        mean, var = (x.mean(axes), x.var(axes)) if training else (self.moving_mean, self.moving_var)
        if training:
            rest = 1 - self.momentum
            self.moving_mean = self.momentum * self.moving_mean + rest * mean
            self.moving_var = self.momentum * self.moving_var + rest * var
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat, self.training, self.axes = (x - mean) * self.rstd, training, axes
        y: Array = self.xhat * self.gamma + self.beta
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx, and keep the gradients of gamma and beta."""
        self.grad_gamma, self.grad_beta = (dy * self.xhat).sum(self.axes), dy.sum(self.axes)
        if self.training:
            dy = dy - dy.mean(self.axes) - self.xhat * (dy * self.xhat).mean(self.axes)
        dx: Array = dy * (self.gamma * self.rstd)
        return dx
