"""The workers as the job store sees them: who lives, who leads, whose leases have ended, which messages were lost."""

from typing import Any, cast

import orjson
import redis

from worker.redis_connection import Scripts, translated_errors

QUEUE = "snapcycle"
"""Celery's queue; with the prefix of all keys before it, it is a Redis list."""

MIN_VERSION = (6, 2)


class Fleet:
    """The half of the job store that the reconciler, the launcher and the workers' signs of life use."""

    _redis: redis.Redis
    _prefix: str
    _scripts: Scripts

    def ping(self) -> None:
        """Returns if the server answers."""
        with translated_errors():
            self._redis.ping()

    def check_server(self) -> list[str]:
        """One sentence for each way in which the server could lose or refuse what it was given."""
        with translated_errors():
            info = self._redis.info()
        warnings = []
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
            warnings.append(f"Redis {version} is older than 6.2, which the scripts need: upgrade it")
        if not info.get("aof_enabled"):
            warnings.append("Redis keeps no append-only file, so a restart loses jobs: set `appendonly yes` and `appendfsync always`")
        elif self._config("appendfsync") not in ("always", None):
            warnings.append("Redis answers before its log is on the disk, so a power cut can lose jobs: set `appendfsync always`")
        if info.get("maxmemory_policy") != "noeviction":
            warnings.append(f"Redis may evict jobs (maxmemory-policy {info.get('maxmemory_policy')}): set it to noeviction")
        return warnings

    def memory_ratio(self) -> float | None:
        """The share of its memory that the server uses; None where it has no limit."""
        with translated_errors():
            info = self._redis.info("memory")
        return int(info["used_memory"]) / int(info["maxmemory"]) if int(info.get("maxmemory", 0)) else None

    def counters(self) -> dict[str, int]:
        """What the scripts have counted since the database was empty: lease_expiries, fenced_commits."""
        with translated_errors():
            counted = cast(dict[str, str], self._redis.hgetall(f"{self._prefix}counters"))
        return {name: int(number) for name, number in counted.items()}

    def unannounced(self, older_than_ms: int) -> list[str]:
        """Queued jobs of this age whose Celery message was lost, oldest first."""
        return cast(list[str], self._scripts.run("unannounced", self._prefix + QUEUE, older_than_ms))

    def expired_leases(self) -> list[str]:
        """Running jobs whose worker has been silent for longer than its lease."""
        return cast(list[str], self._scripts.run("expired_leases"))

    def requeue_expired(self, job_id: str, max_crashes: int) -> str:
        """Takes a job from a silent worker, counting a crash: requeued, failed, cancelled, or held where it was not silent."""
        return cast(str, self._scripts.run("requeue_expired", job_id, max_crashes))

    def expire_owner(self, owner: str) -> list[str]:
        """Ends the leases of a process that is known to be dead, that of the leader too, and returns its jobs."""
        return cast(list[str], self._scripts.run("expire_owner", owner))

    def unfiled(self) -> list[str]:
        """Jobs that have ended, and of which it is not known that their result is in the artifact store."""
        with translated_errors():
            return sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}unfiled")))

    def mark_filed(self, job_id: str) -> None:
        """Notes that the result of a job is in the artifact store."""
        with translated_errors():
            self._redis.srem(f"{self._prefix}unfiled", job_id)

    def waiting(self) -> list[str]:
        """Jobs that wait for runs of their own, to be woken once those have ended."""
        with translated_errors():
            return sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}waiting")))

    def deleting(self) -> list[str]:
        """Jobs whose deletion has begun."""
        with translated_errors():
            return sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}deleting")))

    def acquire_leader(self, name: str, ttl_ms: int) -> bool:
        """Takes or renews the leadership of the reconcilers; False while another has it."""
        return bool(self._scripts.run("acquire_leader", name, ttl_ms))

    def release_leader(self, name: str) -> None:
        """Gives the leadership up, if it is held."""
        self._scripts.run("release_leader", name)

    def register_worker(self, worker_id: str, info: dict[str, Any], ttl_ms: int) -> None:
        """A worker's sign of life, with what is known of it."""
        self._scripts.run("register_worker", worker_id, orjson.dumps(info).decode(), ttl_ms)

    def workers(self) -> list[dict[str, Any]]:
        """The living workers: what they registered, and their id."""
        flat = self._scripts.run("workers")
        return [{"id": name, **orjson.loads(info)} for name, info in zip(flat[::2], flat[1::2], strict=True)]

    def forget_worker(self, worker_id: str) -> None:
        """Removes a worker that ends."""
        with translated_errors(), self._redis.pipeline() as pipeline:
            pipeline.zrem(f"{self._prefix}workers", worker_id)
            pipeline.hdel(f"{self._prefix}workers:info", worker_id)
            pipeline.execute()

    def forget_dead_workers(self) -> list[str]:
        """Removes the workers without a recent sign of life, and returns their ids."""
        return cast(list[str], self._scripts.run("forget_dead_workers"))

    def _config(self, name: str) -> str | None:
        """A setting of the server; None where it doesn't tell."""
        try:
            with translated_errors():
                return cast(dict[str, str], self._redis.config_get(name)).get(name)
        except redis.ResponseError:  # managed servers refuse CONFIG
            return None
