"""The order of the queue in plain Python: what the scripts must agree with."""

from dataclasses import dataclass, field

from worker.jobs import Priority

LATER = 10**15
"""Arrivals that the model counts itself come after all those in ms since 1970, which a rebuilt queue has."""

ORDER = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


@dataclass
class QueueModel:
    """Queues by priority and tenant; in ``turns`` the tenants with jobs, in the order in which they are served.

    Attributes:
        homes: Priority and tenant of each job, for ever.
        arrivals: Of each job that may come back to its place.
    """

    homes: dict[str, tuple[Priority, str]] = field(default_factory=dict)
    arrivals: dict[str, tuple[int, str]] = field(default_factory=dict)
    queues: dict[tuple[Priority, str], list[str]] = field(default_factory=dict)
    turns: dict[Priority, list[str]] = field(default_factory=lambda: {priority: [] for priority in ORDER})
    _clock: int = 0

    def join(self, job_id: str, *, at_the_end: bool = False) -> None:
        """Queues a job: where it was before, or behind all others of its tenant's."""
        self._clock += 1
        if at_the_end or job_id not in self.arrivals:
            self.arrivals[job_id] = (LATER + self._clock, "")
        priority, tenant = self.homes[job_id]
        queue = self.queues.setdefault((priority, tenant), [])
        queue.append(job_id)
        queue.sort(key=self.arrivals.__getitem__)
        if tenant not in self.turns[priority]:
            self.turns[priority].append(tenant)

    def lose(self) -> None:
        """Forgets who waits, as a database does; the homes are in the specs."""
        self.arrivals.clear()
        self.queues.clear()
        for turns in self.turns.values():
            turns.clear()

    def leave(self, job_id: str, *, is_claimed: bool = False) -> None:
        """Takes a job out; for one that is claimed its tenant has had its turn."""
        priority, tenant = self.homes[job_id]
        queue = self.queues.get((priority, tenant), [])
        if job_id not in queue:
            return
        queue.remove(job_id)
        if is_claimed or not queue:
            self.turns[priority].remove(tenant)
        if is_claimed and queue:
            self.turns[priority].append(tenant)

    def order(self) -> list[str]:
        """All queued jobs in the order in which they are taken if nothing else happens."""
        found = []
        for priority in ORDER:
            turns = list(self.turns[priority])
            queues = {tenant: list(self.queues[priority, tenant]) for tenant in turns}
            while turns:
                tenant = turns.pop(0)
                found.append(queues[tenant].pop(0))
                if queues[tenant]:
                    turns.append(tenant)
        return found
