"""One picture becomes one row of a prediction.

Nothing is guessed: a picture of another size, or with another number of channels, is refused before its pixels are read, so none can ask
for more memory than a row of the training data takes.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from service import media
from service.errors import Problem

FORMATS = {media.PNG: "PNG", media.JPEG: "JPEG"}
_MODES = {1: ("1", "L"), 3: ("RGB", "L", "1", "P")}
"""Pillow's names of the pixel formats that become one channel, or three, without loss."""


def read_image(body: bytes, media_type: str, input_shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """The pixels, 0 to 255, as (1, *input_shape) of uint8.

    Raises:
        Problem: The bytes are no picture of this type, or one that doesn't fit the rows of the training data.
    """
    height, width, channels = _picture_shape(input_shape)
    # Pillow takes a twentieth of a second to import, and most services are never shown a picture.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body), formats=[FORMATS[media_type]]) as picture:
            if picture.size != (width, height):
                raise _misfit(f"the picture must have {width} x {height} pixels, got {picture.width} x {picture.height}: resize it")
            if picture.mode not in _MODES[channels] or "transparency" in picture.info or getattr(picture, "n_frames", 1) > 1:
                raise _misfit(
                    f"the picture must be {'grey' if channels == 1 else 'in colour'} with 8 bits a channel, one frame and no transparency, "
                    f"got Pillow's mode {picture.mode}: convert it"
                )
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.uint8)
    except Problem:
        raise
    except UnidentifiedImageError:  # its own words name an address in memory
        raise Problem(
            "malformed_body", f"the body is no readable {FORMATS[media_type]} picture: save it as one, or correct Content-Type"
        ) from None
    except Exception as error:  # noqa: BLE001  # Pillow promises no list of what damaged files make it raise
        raise Problem("malformed_body", f"the body is no readable {FORMATS[media_type]} picture ({error}): save it again") from None
    return pixels.reshape(1, *input_shape)


def _picture_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels of the rows that the ensemble takes."""
    match tuple(input_shape):
        case (height, width):
            return height, width, 1
        case (height, width, (1 | 3) as channels):
            return height, width, channels
        case _:
            raise _misfit(f"rows of the shape {tuple(input_shape)} are no pictures of one or three channels: send them as an array")


def _misfit(detail: str) -> Problem:
    return Problem("shape_mismatch", detail)
