"""Augmentation: shifts and mirrored images, drawn from seed, step and position alone."""

import pytest
import torch
from torch import Tensor

from clr.augmentation import Augmentation, draw_moves, moved


def coordinates(num_rows: int, height: int, width: int) -> Tensor:
    """Images whose two channels hold each pixel's own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).expand(num_rows, 2, height, width).clone()


def augment(images: Tensor, augmentation: Augmentation, *, seed: int, step: int) -> Tensor:
    """The images as a step with these draws would see them."""
    height, width = images.shape[2:]
    moves = draw_moves(augmentation, len(images), (height, width), seed=seed, step=step, device=torch.device("cpu"))
    return images if moves is None else moved(images, moves)


def test_crop_shifts_each_image_by_up_to_an_eighth_and_repeats_the_edge() -> None:
    changed = augment(coordinates(500, 16, 24), "crop", seed=1, step=2)
    shifts = set()
    for image in changed:
        rows, columns = image[0, :, 0], image[1, 0]
        down, right = int(rows[8]) - 8, int(columns[12]) - 12
        shifts.add((down, right))
        assert rows.tolist() == [min(max(row + down, 0), 15) for row in range(16)]
        assert columns.tolist() == [min(max(column + right, 0), 23) for column in range(24)]
    assert shifts == {(down, right) for down in range(-2, 3) for right in range(-3, 4)}


def test_flip_crop_mirrors_about_half_of_the_images() -> None:
    changed = augment(coordinates(1000, 8, 8), "flip_crop", seed=1, step=2)
    mirrored = (changed[:, 1, 0, 6] < changed[:, 1, 0, 2]).sum().item()
    assert 430 < mirrored < 570


def test_draws_depend_on_seed_and_step_and_nothing_else() -> None:
    images = coordinates(8, 16, 16)
    base = augment(images, "flip_crop", seed=1, step=2)
    torch.rand(3)
    assert torch.equal(base, augment(images, "flip_crop", seed=1, step=2))
    assert not torch.equal(base, augment(images, "flip_crop", seed=1, step=3))
    assert not torch.equal(base, augment(images, "flip_crop", seed=2, step=2))


def test_none_is_the_same_tensor_and_a_type_is_kept() -> None:
    images = coordinates(2, 8, 8).to(torch.uint8)
    assert augment(images, "none", seed=0, step=0) is images
    assert augment(images, "crop", seed=0, step=0).dtype == torch.uint8


@pytest.mark.parametrize("size", [1, 4, 7])
def test_small_images_stay_where_they_are(size: int) -> None:
    images = coordinates(5, size, size)
    assert torch.equal(augment(images, "crop", seed=0, step=0), images)
