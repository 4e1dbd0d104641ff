"""Random changes of training images: each is a function of the seed, the step and the row's position in the batch.

Shapes: B rows, C channels, H height, W width.
"""

from typing import Literal

import torch
from torch import Tensor

from clr.randomness import generator
from clr.row_store import to_device

Augmentation = Literal["none", "crop", "flip_crop"]


def augment(images_BCHW: Tensor, augmentation: Augmentation, *, seed: int, step: int) -> Tensor:
    """Shifts each image by up to an eighth of its size, and mirrors half of them for ``flip_crop``.

    Pixels that a shift uncovers repeat the edge, which suits dark and bright borders alike. One gather does it all.
    """
    if augmentation == "none":
        return images_BCHW
    num_rows, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    draws = generator(seed, "augmentation", step)
    rows_BH = _shifted(height, _shifts(num_rows, height, draws), device)
    columns_BW = _shifted(width, _shifts(num_rows, width, draws), device)
    if augmentation == "flip_crop":
        mirrored_B1 = to_device(torch.rand(num_rows, 1, generator=draws) < 0.5, device)
        columns_BW = torch.where(mirrored_B1, columns_BW.flip(1), columns_BW)
    index_B11 = torch.arange(num_rows, device=device)[:, None, None]
    return images_BCHW.permute(0, 2, 3, 1)[index_B11, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)


def _shifts(num_rows: int, size: int, draws: torch.Generator) -> Tensor:
    """By how many pixels each row of the batch is moved along one axis, (B, 1)."""
    reach = size // 8
    return torch.randint(-reach, reach + 1, (num_rows, 1), generator=draws)


def _shifted(size: int, shifts_B1: Tensor, device: torch.device) -> Tensor:
    """For each row of the batch, the source index of each pixel along one axis."""
    return (torch.arange(size, device=device) + to_device(shifts_B1, device)).clamp_(0, size - 1)
