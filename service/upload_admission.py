"""Whether one more upload may arrive: asked before its first byte is read, and while it goes on where it doesn't say its length.

Counted in each API process, on its event loop. The disk is looked at again with every piece that comes, since others write to it too.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.allowances import Allowance
from service.errors import Problem
from service.principals import Principal

MAX_UPLOADS = 16
MAX_TENANT_UPLOADS = 4
"""At a time. Where no keys are asked for, there is one tenant, and it may have all."""

RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.05
"""What uploads leave free on their disk, which trainers use too: the smaller of the two."""

RETRY_SECONDS = 5

DiskUsage = Callable[[Path], tuple[int, int, int]]
"""Total, used and free bytes of the disk that a path is on."""


@dataclass(frozen=True)
class DatasetQuota:
    """What a tenant has stored, and the most that it may have stored, in bytes."""

    stored_bytes: int
    limit_bytes: int

    def check(self, new_bytes: int, what: str) -> None:
        """Returns if there is room for so much more.

        Raises:
            Problem: There is not; ``what`` is the subject of its first sentence.
        """
        if self.stored_bytes + new_bytes > self.limit_bytes:
            detail = (
                f"{what} {new_bytes} bytes and the datasets that are stored {self.stored_bytes}, and a tenant may have at most "
                f"{self.limit_bytes}: delete datasets that are not needed"
            )
            extra = {"stored_bytes": self.stored_bytes, "limit_stored_bytes": self.limit_bytes}
            raise Problem("quota_exceeded", detail, extra=extra)


def check_disk(directory: Path, new_bytes: int, usage: DiskUsage = shutil.disk_usage) -> None:
    """Returns if the disk has room for so much more in the directory.

    Raises:
        Problem: It has not, beside what uploads leave free.
    """
    total, _, free = usage(directory)
    reserve = min(RESERVE_BYTES, int(RESERVE_SHARE * total))
    if free - reserve < new_bytes:
        raise Problem(
            "storage_full",
            f"the disk of uploads has {free} bytes free, of which {reserve} stay free, and the uploads under way need {new_bytes} more: "
            "add space, or upload later",
        )


class UploadGate:
    """Counts the uploads under way.

    Args:
        usage: How full a disk is.
    """

    def __init__(self, usage: DiskUsage = shutil.disk_usage) -> None:
        self.usage = usage
        self._places = Allowance(
            "uploads",
            total=MAX_UPLOADS,
            of_tenant=MAX_TENANT_UPLOADS,
            of_key=MAX_TENANT_UPLOADS,
            remedy="repeat it when others have ended",
            retry_seconds=RETRY_SECONDS,
        )
        self._under_way: Counter[str] = Counter()
        self._to_be_written = 0

    @contextmanager
    def admitted(
        self, principal: Principal, declared_bytes: int | None, quota: DatasetQuota | None, directory: Path
    ) -> Iterator[Callable[[int], None]]:
        """Counts an upload as under way; yields the function that is to be told of all bytes that arrive.

        Args:
            principal: Its sender.
            declared_bytes: The length of its body; None where that is not said.
            quota: The tenant's; None where the upload needs none, since it was made before.
            directory: Where it is written to.

        Raises:
            Problem: There are too many, or there is no room for it; also from the yielded function.
        """
        counted = arrived = 0
        tenant = principal.tenant

        def count(new_bytes: int) -> None:
            nonlocal counted
            counted += new_bytes
            self._under_way[tenant] += new_bytes
            self._to_be_written += new_bytes
            if quota is not None:
                quota.check(self._under_way[tenant], "uploads under way have")

        def note(new_bytes: int) -> None:
            nonlocal arrived
            arrived += new_bytes
            self._to_be_written -= new_bytes
            if arrived > counted:
                count(arrived - counted)
            check_disk(directory, new_bytes, self.usage)

        with self._places.holding(principal) as take:
            take(1)
            try:
                count(declared_bytes or 0)
                check_disk(directory, self._to_be_written, self.usage)
                yield note
            finally:
                self._under_way[tenant] -= counted
                self._under_way += Counter()
                self._to_be_written -= counted - arrived
