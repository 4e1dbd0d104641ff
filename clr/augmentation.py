"""Random changes of training images: each is a function of the seed, the step and the row's position in the batch.

Shapes: B rows, C channels, H height, W width.
"""

from typing import Literal

import torch
from torch import Tensor

from clr.randomness import generator

Augmentation = Literal["none", "crop", "flip_crop"]


def augment(images_BCHW: Tensor, augmentation: Augmentation, *, seed: int, step: int) -> Tensor:
    """Shifts each image by up to an eighth of its size, and mirrors half of them for ``flip_crop``.

    Pixels that a shift uncovers repeat the edge, which suits dark and bright borders alike. One gather does it all.
    """
    if augmentation == "none":
        return images_BCHW
    num_rows, _, height, width = images_BCHW.shape
    draws = generator(seed, "augmentation", step)
    rows_BH = _shifted(num_rows, height, draws)
    columns_BW = _shifted(num_rows, width, draws)
    if augmentation == "flip_crop":
        mirrored_B1 = torch.rand(num_rows, 1, generator=draws) < 0.5
        columns_BW = torch.where(mirrored_B1, columns_BW.flip(1), columns_BW)
    device = images_BCHW.device
    index_B11 = torch.arange(num_rows, device=device)[:, None, None]
    rows_BH1, columns_B1W = rows_BH.to(device)[:, :, None], columns_BW.to(device)[:, None, :]
    return images_BCHW.permute(0, 2, 3, 1)[index_B11, rows_BH1, columns_B1W].permute(0, 3, 1, 2)


def _shifted(num_rows: int, size: int, draws: torch.Generator) -> Tensor:
    """For each row of the batch, the source index of each pixel along one axis."""
    reach = size // 8
    shifts_B1 = torch.randint(-reach, reach + 1, (num_rows, 1), generator=draws)
    return (torch.arange(size) + shifts_B1).clamp_(0, size - 1)
