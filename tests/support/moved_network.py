"""ResNet-18 as torchvision has it, narrow, in torch, Keras and flax: what a checkpoint of a whole model is moved with.

Each is built from the same list of blocks. Padding is given in numbers, since "same" means another side in each.
"""

from typing import Any

__all__ = ["NORMS", "flax_network", "keras_network", "kernel_of", "torch_network"]

WIDTH, CLASSES = 8, 10

#: Name, input and output channels, and stride of every block.
BLOCKS = [
    (f"layer{stage}.{i}", WIDTH << max(0, stage - 2 + i), WIDTH << (stage - 1), 2 if stage > 1 and i == 0 else 1)
    for stage in (1, 2, 3, 4)
    for i in (0, 1)
]


def _norms() -> list[str]:
    """Return the names that torchvision gives to the normalizations, in the order in which models are built here."""
    found = ["bn1"]
    for name, before, after, stride in BLOCKS:
        found += [f"{name}.bn1", f"{name}.bn2"]
        if stride > 1 or before != after:
            found.append(f"{name}.downsample.1")
    return found


NORMS = _norms()


def kernel_of(norm: str) -> str:
    """Return the name that torchvision gives to the convolution before a normalization."""
    return norm.replace("bn", "conv").replace("downsample.1", "downsample.0")


def torch_network() -> Any:
    """Return the network with random weights and statistics."""
    import torch
    from torch import nn

    def conv(before: int, after: int, size: int, stride: int) -> Any:
        return nn.Conv2d(before, after, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(before, after, 3, stride), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = conv(after, after, 3, 1), nn.BatchNorm2d(after)
            self.downsample: Any = None
            if stride > 1 or before != after:
                self.downsample = nn.Sequential(conv(before, after, 1, stride), nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(3, WIDTH, 7, 2), nn.BatchNorm2d(WIDTH)
            for stage in (1, 2, 3, 4):
                own = [block for block in BLOCKS if block[0].startswith(f"layer{stage}.")]
                setattr(self, f"layer{stage}", nn.Sequential(*(Block(*block[1:]) for block in own)))
            self.fc = nn.Linear(BLOCKS[-1][2], CLASSES)

        def forward(self, x: Any) -> Any:
            x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            for stage in (1, 2, 3, 4):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    network = ResNet()
    for name, v in network.state_dict().items():
        if name.endswith("running_mean") or name.endswith(("bn1.bias", "bn2.bias")):
            v.normal_(0.0, 0.3)
        elif name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            v.uniform_(0.5, 2.0)
    return network.eval()


def keras_network(keras: Any) -> Any:
    """Return the network with channels last, as Keras makes it."""
    layers = keras.layers

    def norm(x: Any, name: str, after: int, size: int, stride: int = 1) -> Any:
        x = layers.ZeroPadding2D(size // 2)(x) if size > 1 else x
        x = layers.Conv2D(after, size, stride, use_bias=False, name=kernel_of(name).replace(".", "_"))(x)
        # The checkpoint brings its own epsilon and momentum.
        return layers.BatchNormalization(epsilon=0.5, momentum=0.5, name=name.replace(".", "_"))(x)

    start = keras.Input((32, 32, 3))
    x = layers.ReLU()(norm(start, "bn1", WIDTH, 7, 2))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for name, before, after, stride in BLOCKS:
        y = layers.ReLU()(norm(x, f"{name}.bn1", after, 3, stride))
        y = norm(y, f"{name}.bn2", after, 3)
        if stride > 1 or before != after:
            x = norm(x, f"{name}.downsample.1", after, 1, stride)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(start, layers.Dense(CLASSES, name="fc")(layers.GlobalAveragePooling2D()(x)))


def flax_network(nn: Any, arguments: Any) -> Any:
    """Return the network for inference, with channels last; names are torchvision's, with _ for the dots.

    ``arguments`` are those of each normalization, by its name.
    """

    class ResNet(nn.Module):  # type: ignore[misc]
        @nn.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            def norm(x: Any, name: str, after: int, size: int, stride: int = 1) -> Any:
                side, named = (size // 2, size // 2), kernel_of(name).replace(".", "_")
                x = nn.Conv(after, (size, size), stride, (side, side), use_bias=False, name=named)(x)
                name = name.replace(".", "_")
                return nn.BatchNorm(use_running_average=True, name=name, **arguments[name])(x)

            x = nn.relu(norm(x, "bn1", WIDTH, 7, 2))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for name, before, after, stride in BLOCKS:
                y = nn.relu(norm(x, f"{name}.bn1", after, 3, stride))
                y = norm(y, f"{name}.bn2", after, 3)
                if stride > 1 or before != after:
                    x = norm(x, f"{name}.downsample.1", after, 1, stride)
                x = nn.relu(x + y)
            return nn.Dense(CLASSES, name="fc")(x.mean((1, 2)))

    return ResNet()
