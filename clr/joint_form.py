"""What a form is: another way to compute what the loop over an ensemble's members computes."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from clr.preprocessing import Preprocessing

Member = tuple[nn.Module, Preprocessing]
Form = Callable[[Tensor], Tensor]
"""From rows as the data holds them to raw outputs (M, B, C), float32."""


@dataclass(frozen=True)
class Candidate:
    """A form that may be made of some members.

    Attributes:
        make: Copies what it needs of their weights.
        rows: The numbers of rows for which it is the fastest, by measurement.
        gate_rows: Numbers of rows on which it is compared with the loop.
    """

    make: Callable[[Sequence[Member]], Form]
    rows: Container[int]
    gate_rows: tuple[int, ...]


def are_alike(members: Sequence[Member]) -> bool:
    """Whether their weights lie on the CPU and have the same shapes, for rows prepared in the same way."""
    (network, first), *others = members
    shapes = [tuple(value.shape) for value in network.state_dict().values()]
    return (
        first.mean.device.type == "cpu"
        and all([tuple(value.shape) for value in each.state_dict().values()] == shapes for each, _ in others)
        and all(each.layout == first.layout and each.mean.equal(first.mean) and each.std.equal(first.std) for _, each in others)
    )
