"""A residual network as torchvision builds it, small: what the tests and the benchmark of modules train."""

from typing import Any

import torch
from torch import nn

__all__ = ["ResNet", "digits", "train"]


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages and a linear layer."""

    def __init__(self, channels: int = 1, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )  # fmt: skip
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Any) -> Any:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def digits(samples: int, dtype: Any) -> tuple[Any, Any]:
    """Images of 8 x 8 with ten kinds of stripes, and their kinds; made, so that nothing has to be there."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(10, (samples,), generator=generator)
    grid = torch.arange(8.0)
    angle = kinds[:, None, None] * 0.314 + 0.1
    images = torch.sin(angle.cos() * grid[None, None, :] + angle.sin() * grid[None, :, None])
    noise = torch.randn(samples, 8, 8, generator=generator)
    return (images + 0.3 * noise)[:, None].to(dtype), kinds


def train(model: Any, images: Any, kinds: Any, steps: int, batch: int = 32, call: Any = None) -> list[float]:
    """Train with momentum, over the images in order; return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        chosen = torch.arange(step * batch, (step + 1) * batch) % len(images)
        loss = nn.functional.cross_entropy((call or model)(images[chosen]), kinds[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
