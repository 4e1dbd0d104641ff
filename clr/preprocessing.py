"""From rows as the user gave them to what a network takes: image axes in order, zero mean and unit variance.

Shapes: B rows, H height, W width, C channels, D features.
"""

from dataclasses import dataclass
from typing import Literal, Self, assert_never

import numpy as np
import torch
from torch import Tensor

from clr.datasets import Dataset
from clr.targets import Task

Layout = Literal["features", "grey", "channels_last", "channels_first"]

CHANNEL_COUNTS = (1, 3, 4)
_CHUNK_ROWS = 256
"""Small enough that a chunk in float64 stays in the cache."""


def image_layout(input_shape: tuple[int, ...]) -> Layout:
    """How to read one row: two axes are a grey image; three are one where the last or the first has 1, 3 or 4 entries."""
    match input_shape:
        case (_, _):
            return "grey"
        case (_, _, channels) if channels in CHANNEL_COUNTS:
            return "channels_last"
        case (channels, _, _) if channels in CHANNEL_COUNTS:
            return "channels_first"
    return "features"


def image_size(input_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Channels, height and width of a row that is an image, else None."""
    match image_layout(input_shape):
        case "grey":
            return (1, *input_shape)  # type: ignore[return-value]  # the layout fixes the number of axes
        case "channels_last":
            return (input_shape[2], input_shape[0], input_shape[1])
        case "channels_first":
            return input_shape  # type: ignore[return-value]  # as above
        case "features":
            return None


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What training learned about the scale of its rows, and what every prediction repeats.

    Attributes:
        layout: How the axes of a row are read.
        mean: float32, (C, 1, 1) for images, else one value a feature.
        std: Like ``mean``; 1 for constant features.
        target_mean: Mean of the training targets; 0 for classification.
        target_std: Standard deviation of the training targets; 1 for classification.
    """

    layout: Layout
    mean: Tensor
    std: Tensor
    target_mean: float
    target_std: float

    @classmethod
    def fit(cls, dataset: Dataset, rows: Tensor) -> Self:
        """Measures the training rows, in float64."""
        layout = image_layout(dataset.input_shape)
        mean, std = _moments(dataset.inputs, rows, layout)
        target_mean, target_std = 0.0, 1.0
        if dataset.task is Task.REGRESSION:
            targets = dataset.targets[rows].double()
            target_mean = targets.mean().item()
            target_std = _safe_std(targets.var(correction=0), targets.abs().max()).item()
        return cls(layout, mean.float(), std.float(), target_mean, target_std)

    def to(self, device: torch.device) -> "Preprocessing":
        """The same, with its tensors on ``device``."""
        return Preprocessing(self.layout, self.mean.to(device), self.std.to(device), self.target_mean, self.target_std)

    def is_equal(self, other: "Preprocessing") -> bool:
        """Whether the other does the same, to the bit."""
        numbers = (self.target_mean, self.target_std) == (other.target_mean, other.target_std)
        return self.layout == other.layout and numbers and self.mean.equal(other.mean) and self.std.equal(other.std)

    def standardize(self, images: Tensor) -> Tensor:
        """Arranged rows as float32 with zero mean and unit variance."""
        return images.float().sub(self.mean).div_(self.std)

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the network takes for the rows ``inputs``: (B, C, H, W) or (B, D), float32."""
        return self.standardize(arrange(inputs, self.layout))


def arrange(inputs: Tensor, layout: Layout) -> Tensor:
    """A view of the rows as (B, C, H, W), or as (B, D) where they are no images."""
    match layout:
        case "features":
            return inputs.flatten(1)
        case "grey":
            return inputs.unsqueeze(1)
        case "channels_last":
            return inputs.permute(0, 3, 1, 2)
        case "channels_first":
            return inputs
    assert_never(layout)


def _moments(inputs: Tensor, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the rows (and pixels), float64, by merging chunks (Chan, Golub and LeVeque 1979)."""
    if inputs.dtype == torch.uint8 and layout != "features":
        return _moments_of_bytes(inputs, rows, layout)
    axes: tuple[int, ...] = (0,) if layout == "features" else (0, 2, 3)
    count, mean, squares, largest = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for chunk_rows in torch.split(rows, _CHUNK_ROWS):
        chunk = arrange(inputs[chunk_rows], layout).double()
        num_values = chunk.numel() // chunk.shape[1]
        chunk_mean = chunk.mean(axes, keepdim=True)
        delta = chunk_mean - mean
        squares = squares + (chunk - chunk_mean).square_().sum(axes, keepdim=True) + delta**2 * (count * num_values / (count + num_values))
        mean = mean + delta * (num_values / (count + num_values))
        count += num_values
        largest = torch.maximum(largest, chunk_mean.abs())
    return mean[0], _safe_std(squares[0] / count, largest[0])


def _moments_of_bytes(inputs: Tensor, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The same for images of bytes, exactly, from sums and sums of squares; in NumPy, whose sums wait for no other thread.

    Of one pixel the squares of a chunk sum up to at most 256 * 255**2 < 2**24, so float32 holds every sum on the way as it is.
    """
    images, order = inputs.numpy(), rows.numpy()
    sums, squares = np.zeros(inputs[0].numel()), np.zeros(inputs[0].numel())
    for start in range(0, len(order), _CHUNK_ROWS):
        chunk = images[order[start : start + _CHUNK_ROWS]].reshape(-1, len(sums)).astype(np.float32)
        sums += chunk.sum(0)
        squares += np.square(chunk, out=chunk).sum(0)
    channels = [arrange(torch.from_numpy(each).view(1, *inputs.shape[1:]), layout).sum((2, 3))[0].tolist() for each in (sums, squares)]
    count = len(order) * inputs[0].numel() // len(channels[0])
    totals = [(int(total), int(square)) for total, square in zip(*channels, strict=True)]
    mean_C = torch.tensor([total / count for total, _ in totals], dtype=torch.float64)
    variance_C = torch.tensor([(count * square - total**2) / count**2 for total, square in totals], dtype=torch.float64)
    return mean_C[:, None, None], _safe_std(variance_C, mean_C)[:, None, None]


def _safe_std(variance: Tensor, magnitude: Tensor) -> Tensor:
    """The square root, and 1 where a feature is constant but for rounding."""
    std = variance.sqrt()
    return torch.where(std > 1e-12 * magnitude, std, 1.0)
