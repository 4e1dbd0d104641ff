"""Random changes of training images: each is a function of the seed, the step and the row's position in the batch.

Shapes: B rows, C channels, H height, W width, K kinds of moves.
"""

from typing import Literal

import torch
from torch import Tensor

from clr.preprocessing import image_size
from clr.randomness import generator
from clr.row_store import to_device

Augmentation = Literal["none", "crop", "flip_crop"]


def draw_moves(
    augmentation: Augmentation, num_rows: int, input_shape: tuple[int, ...], *, seed: int, step: int, device: torch.device
) -> Tensor | None:
    """How each image of a batch is to be moved, (K, B, 1) int64 on ``device``; None where nothing is.

    By how many pixels along the height and along the width, up to an eighth of the size, and for ``flip_crop`` a 1 for the half that
    is mirrored. Drawn on the CPU and handed over in one copy that nobody waits for.
    """
    if augmentation == "none":
        return None
    size = image_size(input_shape)
    assert size is not None, "run_plan refuses to move what is no image"
    _, height, width = size
    draws = generator(seed, "augmentation", step)
    moves = [_shifts(num_rows, height, draws), _shifts(num_rows, width, draws)]
    if augmentation == "flip_crop":
        moves.append((torch.rand(num_rows, 1, generator=draws) < 0.5).long())
    return to_device(torch.stack(moves), device)


def moved(images_BCHW: Tensor, moves_KB1: Tensor) -> Tensor:
    """The images after the moves of ``draw_moves``.

    Pixels that a shift uncovers repeat the edge, which suits dark and bright borders alike. One gather does it all.
    """
    num_rows, _, height, width = images_BCHW.shape
    rows_BH = _shifted(height, moves_KB1[0])
    columns_BW = _shifted(width, moves_KB1[1])
    if len(moves_KB1) == 3:
        columns_BW = torch.where(moves_KB1[2].bool(), columns_BW.flip(1), columns_BW)
    index_B11 = torch.arange(num_rows, device=images_BCHW.device)[:, None, None]
    return images_BCHW.permute(0, 2, 3, 1)[index_B11, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)


def _shifts(num_rows: int, size: int, draws: torch.Generator) -> Tensor:
    """By how many pixels each row of the batch is moved along one axis, (B, 1)."""
    reach = size // 8
    return torch.randint(-reach, reach + 1, (num_rows, 1), generator=draws)


def _shifted(size: int, shifts_B1: Tensor) -> Tensor:
    """For each row of the batch, the source index of each pixel along one axis."""
    return (torch.arange(size, device=shifts_B1.device) + shifts_B1).clamp_(0, size - 1)
