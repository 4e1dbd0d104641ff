"""The networks of the comparisons as a user would write them, for the peers: the names of their weights are those of ``clr.models``.

Every arm of a comparison begins with the same weights, which load by name; a network that differed would refuse them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def build(name: str) -> nn.Module:
    """The network of a tier: mlp, small_cnn or resnet, for grey images of 28 by 28 pixels and ten classes."""
    match name:
        case "mlp":
            return nn.Sequential(
                nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
            )  # fmt: skip
        case "small_cnn":
            first, second, third = _block(1, 16), _block(16, 32), _block(32, 64)
            return nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *third, Average(), nn.Linear(64, 10))
        case "resnet":
            return ResNet8()
        case _:
            raise ValueError(f"there is no network {name!r}")


class Average(nn.Module):
    """Mean over height and width."""

    def forward(self, x_BCHW: Tensor) -> Tensor:  # noqa: N803  # axes as in clr.models
        """(B, C)."""
        return x_BCHW.mean((2, 3))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return _convolution(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()


class ResNet8(nn.Module):
    """One residual block in each of three stages (1512.03385, section 4.2, shortcuts of option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = _convolution(1, 16), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.average, self.head = Average(), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.average(self.blocks(functional.relu(self.norm(self.stem(images))))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two convolutions with batch norm beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        """The block's activations."""
        out = functional.relu(self.norm1(self.conv1(images)))
        out = self.norm2(self.conv2(out))
        if self.extra:
            images = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(out + images)


def scores(probs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and negative log-likelihood of probabilities."""
    accuracy = (probs.argmax(1) == labels).double().mean().item()
    nll = -probs.double().gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float64).tiny).log().mean().item()
    return accuracy, nll
