"""Where a run takes the rows of its mini-batches from, so that no step waits for the device.

On the CPU, and on a GPU that has the memory, the whole data set is there as the user gave it (uint8 images stay uint8). Else it stays on
the host: a batch is gathered into page-locked memory while the device still computes the batches before, and copied behind them.
Both ways give the same bits.
"""

import torch
from torch import Tensor

RESIDENT_SHARE = 0.3
"""Of the device's free memory that the rows may take: the rest is for activations."""

STAGES = 3
"""Page-locked buffers: one that is filled, and those whose copies are still under way."""


class RowStore:
    """The inputs of a data set for one device.

    Attributes:
        inputs: All rows, on the device or on the host.
    """

    def __init__(self, inputs: Tensor, device: torch.device, *, share: float = RESIDENT_SHARE) -> None:
        self._device = device
        self._is_resident = device.type != "cuda" or inputs.nbytes <= share * torch.cuda.mem_get_info(device)[0]
        self.inputs = inputs.to(device) if self._is_resident else inputs
        self._stages: list[tuple[Tensor, torch.cuda.Event]] = []
        self._next = 0

    def index(self, rows: Tensor) -> Tensor:
        """The indices where ``take`` wants them: beside the inputs."""
        return to_device(rows, self.inputs.device)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the rows and the indices themselves, both on the device."""
        if self._is_resident:
            return self.inputs.index_select(0, rows), rows
        buffer, copied = self._stage(len(rows))
        copied.synchronize()  # of three batches ago: done long since unless the device is the slower one, and then it has work left
        torch.index_select(self.inputs, 0, rows, out=buffer)
        on_device = buffer.to(self._device, non_blocking=True)
        copied.record(torch.cuda.current_stream(self._device))
        return on_device, to_device(rows, self._device)

    def _stage(self, num_rows: int) -> tuple[Tensor, torch.cuda.Event]:
        """The next buffer, cut to so many rows, and the event of its last copy."""
        if not self._stages or len(self._stages[0][0]) < num_rows:
            torch.cuda.synchronize(self._device)  # nothing reads the smaller buffers any more
            shape = (num_rows, *self.inputs.shape[1:])
            self._stages = [
                (torch.empty(shape, dtype=self.inputs.dtype, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
                for _ in range(STAGES)
            ]
        self._next = (self._next + 1) % STAGES
        buffer, copied = self._stages[self._next]
        return buffer[:num_rows], copied


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; a GPU gets it by a copy that is queued behind its work and that nobody waits for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
