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


def emptied_store(client: redis.Redis, *, prefix: str) -> JobStore:
    """A job store beside others in a database, without what an earlier setup has left under its prefix."""
    if keys := list(client.scan_iter(f"{prefix}*")):
        client.delete(*keys)
    return complete_store(client, prefix=prefix)
