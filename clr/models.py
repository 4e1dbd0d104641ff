"""The networks. Each takes what ``clr.preprocessing`` gives: (B, C, H, W) images or (B, D) features, float32.

State dictionaries have plain names, so a snapshot loads into them by ``load_state_dict``.
"""

import math
from functools import lru_cache
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from clr.config import MlpConfig, MlpParams, ModelConfig, ResNetConfig, ResNetParams, SmallCnnConfig, WideResNetConfig, WideResNetParams
from clr.errors import ModelError
from clr.preprocessing import image_size

__all__ = ["ModelError", "build_model", "count_parameters", "has_dropout", "is_convolutional", "multiply_adds"]

MAX_PARAMETERS = 1_000_000_000
"""4 GB of weights, as much again for gradients and momentum each."""


def build_model(config: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A network with fresh weights from torch's global generator.

    Args:
        config: Architecture and parameters.
        input_shape: The shape of one row as the data set holds it, before ``arrange``.
        num_outputs: Classes, or 1 for regression.

    Raises:
        ModelError: The architecture cannot take rows of that shape.
    """
    match config:
        case MlpConfig():
            return _mlp(config.params, math.prod(input_shape), num_outputs)
        case SmallCnnConfig():
            return _small_cnn(_image_channels(config.architecture, input_shape), config.params.width, num_outputs)
        case ResNetConfig():
            return ResNet(config.params, _image_channels(config.architecture, input_shape), num_outputs)
        case WideResNetConfig():
            return WideResNet(config.params, _image_channels(config.architecture, input_shape), num_outputs)
    assert_never(config)


@lru_cache(maxsize=1024)  # a wide network takes tens of milliseconds to lay out, and most requests bring one that was seen before
def count_parameters(config: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> int:
    """Weights of the network, counted without allocating them.

    Raises:
        ModelError: As ``build_model``, or more than a billion.
    """
    with torch.device("meta"):
        model = build_model(config, input_shape, num_outputs)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        raise ModelError(f"a network must have at most {MAX_PARAMETERS} parameters, got {count}: make it narrower or shallower")
    return count


@lru_cache(maxsize=1024)  # as above
def multiply_adds(config: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> int:
    """Products that the layers form for one row, counted without computing any.

    Raises:
        ModelError: As ``build_model``.
    """
    with torch.device("meta"):
        model = build_model(config, input_shape, num_outputs)
    size = image_size(input_shape)
    height, width = size[1:] if size is not None and is_convolutional(config) else (1, 1)
    count = 0
    for module in model.modules():
        match module:
            case nn.MaxPool2d():
                height, width = height // 2, width // 2
            case nn.Conv2d():
                if module.kernel_size != (1, 1):  # a shortcut comes after the convolutions beside it
                    height, width = -(-height // module.stride[0]), -(-width // module.stride[1])
                count += height * width * module.weight.numel()
            case nn.Linear():
                count += module.weight.numel()
    return count


def is_convolutional(config: ModelConfig) -> bool:
    """Whether the network takes images only."""
    return not isinstance(config, MlpConfig)


def has_dropout(config: ModelConfig) -> bool:
    """Whether the network draws random numbers while it trains."""
    return isinstance(config, MlpConfig | WideResNetConfig) and config.params.dropout > 0


def _image_channels(architecture: str, input_shape: tuple[int, ...]) -> int:
    """Channels of the images that a convolutional network will see."""
    size = image_size(input_shape)
    if size is None:
        raise ModelError(
            f"{architecture} needs images, (height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4 "
            f"channels, but a row has the shape {input_shape}: take mlp, or reshape the rows"
        )
    channels, height, width = size
    if (height // 4) * (width // 4) < 2:
        raise ModelError(f"{architecture} halves images twice, so they must have at least 8 x 4 pixels, got {height} x {width}: take mlp")
    return channels


def _mlp(params: MlpParams, num_inputs: int, num_outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for units in params.hidden:
        layers += [nn.Linear(num_inputs, units), nn.ReLU(inplace=True)]
        if params.dropout:
            layers.append(nn.Dropout(params.dropout))
        num_inputs = units
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


class GlobalAverage(nn.Module):
    """Mean over height and width. Unlike adaptive pooling its gradient is deterministic on CUDA."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean((2, 3))


def _small_cnn(channels: int, width: int, num_outputs: int) -> nn.Sequential:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [_conv3x3(inputs, outputs), nn.BatchNorm2d(outputs)]

    return nn.Sequential(
        *block(channels, width),
        *_pooled_relu(),
        *block(width, 2 * width),
        *_pooled_relu(),
        *block(2 * width, 4 * width),
        nn.ReLU(inplace=True),
        GlobalAverage(),
        nn.Linear(4 * width, num_outputs),
    )


def _pooled_relu() -> list[nn.Module]:
    """ReLU and max-pooling, which commute bit for bit: pooled first, the ReLU has a quarter of the work."""
    return [nn.MaxPool2d(2), nn.ReLU(inplace=True)]


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A padded convolution without bias (a batch norm stands beside it), initialised as in 1502.01852."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    if not convolution.weight.is_meta:  # drawing normals there would import all of torch._dynamo, over a second
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class ResNet(nn.Module):
    """CIFAR-style residual network of 6n + 2 layers with parameter-free shortcuts (1512.03385, section 4.2, option A)."""

    def __init__(self, params: ResNetParams, channels: int, num_outputs: int) -> None:
        super().__init__()
        blocks_per_stage = (params.depth - 2) // 6
        self.stem = _conv3x3(channels, params.width)
        self.norm = nn.BatchNorm2d(params.width)
        blocks: list[nn.Module] = []
        inputs = params.width
        for stage in range(3):
            for index in range(blocks_per_stage):
                outputs = params.width << stage
                blocks.append(ResidualBlock(inputs, outputs, stride=2 if stage and not index else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.average = GlobalAverage()
        self.head = nn.Linear(inputs, num_outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = functional.relu(self.norm(self.stem(x_BCHW)), inplace=True)
        return self.head(self.average(self.blocks(x_BCHW)))  # type: ignore[no-any-return]  # modules are untyped calls


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut that drops pixels and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra_channels = outputs - inputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = functional.relu(self.norm1(self.conv1(x_BCHW)), inplace=True)
        y_BCHW = self.norm2(self.conv2(y_BCHW))
        if self.stride > 1:
            x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        if self.extra_channels:
            x_BCHW = functional.pad(x_BCHW, (0, 0, 0, 0, 0, self.extra_channels))
        return functional.relu(x_BCHW + y_BCHW, inplace=True)


class WideResNet(nn.Module):
    """Wide residual network of 6n + 4 layers with batch norm before each convolution (1605.07146, table 1)."""

    def __init__(self, params: WideResNetParams, channels: int, num_outputs: int) -> None:
        super().__init__()
        blocks_per_stage = (params.depth - 4) // 6
        self.stem = _conv3x3(channels, 16)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            for index in range(blocks_per_stage):
                outputs = 16 * params.widen << stage
                blocks.append(WideBlock(inputs, outputs, stride=2 if stage and not index else 1, dropout=params.dropout))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.average = GlobalAverage()
        self.head = nn.Linear(inputs, num_outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = functional.relu(self.norm(self.blocks(self.stem(x_BCHW))), inplace=True)
        return self.head(self.average(x_BCHW))  # type: ignore[no-any-return]  # modules are untyped calls


class WideBlock(nn.Module):
    """Batch norm, ReLU, convolution, twice, with dropout between (1605.07146, section 2.4); a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv3x3(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv3x3(outputs, outputs)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs or stride > 1 else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = functional.relu(self.norm1(x_BCHW), inplace=True)
        if self.shortcut is not None:
            x_BCHW = self.shortcut(y_BCHW)
        y_BCHW = functional.relu(self.norm2(self.conv1(y_BCHW)), inplace=True)
        if self.dropout is not None:
            y_BCHW = self.dropout(y_BCHW)
        return x_BCHW + self.conv2(y_BCHW)  # type: ignore[no-any-return]  # modules are untyped calls
