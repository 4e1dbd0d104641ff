"""What many requests share, such as the memory for bodies, and how much of it one tenant and one key may hold at a time.

Counted in each API process, on its event loop.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Problem
from service.principals import Principal

Take = Callable[[int], None]
"""Takes so much more; raises ``Problem`` where that is too much."""


class Allowance:
    """An amount from which requests take while they are under way.

    Invariant: no more is taken than ``total``, nor by one tenant or one key than its part. Who has no key may take all of it.

    Args:
        what: That it is counted in, for sentences: "event streams".
        total: The most that all hold together.
        of_tenant: The most that the keys of one tenant hold.
        of_key: The most that one key holds.
        remedy: What the refused sender can do.
        retry_seconds: When it may come again.
    """

    def __init__(self, what: str, *, total: int, of_tenant: int, of_key: int, remedy: str, retry_seconds: int = 1) -> None:
        self._what, self._remedy, self._retry_seconds = what, remedy, retry_seconds
        self._total, self._of_tenant, self._of_key = total, of_tenant, of_key
        self._taken: Counter[str] = Counter()

    @contextmanager
    def holding(self, principal: Principal) -> Iterator[Take]:
        """Gives the function that takes, as often as it is called; what it took is given back at the end."""
        holders = self._holders(principal)
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            for holder, limit in holders:
                if self._taken[holder] + amount > limit:
                    raise self._refusal(holder, amount, limit)
            for holder, _ in holders:
                self._taken[holder] += amount
            taken += amount

        try:
            yield take
        finally:
            for holder, _ in holders:
                self._taken[holder] -= taken
            self._taken += Counter()  # without those who hold nothing

    def _holders(self, principal: Principal) -> list[tuple[str, int]]:
        everybody = [("all senders", self._total)]
        if principal.key_id is None:
            return everybody
        return [(f"API key {principal.key_id}", self._of_key), (f"tenant {principal.tenant}", self._of_tenant), *everybody]

    def _refusal(self, holder: str, amount: int, limit: int) -> Problem:
        detail = (
            f"{holder} may have at most {limit} {self._what} at a time in this process, there are {self._taken[holder]} "
            f"and this request makes {amount} more: {self._remedy}"
        )
        return Problem("overloaded", detail, headers={"Retry-After": str(self._retry_seconds)})
