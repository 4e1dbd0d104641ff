"""Job stores that know that they have lost nothing, as the reconciler makes them."""

import redis

from worker.job_store import JobStore


def complete_store(client: redis.Redis, *, prefix: str = "snapcycle:") -> JobStore:
    """A job store in a database that is empty because there are no jobs."""
    store = JobStore(client, prefix=prefix)
    token = store.begin_rebuild()
    assert token is not None
    assert store.end_rebuild(token)
    return store
