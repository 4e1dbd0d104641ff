"""The way to the Redis server: bounded in time, with one word for every way in which it can be away."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.retry import Retry

CONNECT_SECONDS = 1.0
REPLY_SECONDS = 2.0
"""A call fails after this time, so that an API request fails within six seconds in total."""

_AWAY = ("LOADING", "MISCONF", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "NOAUTH", "WRONGPASS", "NOPERM", "INCOMPLETE")
"""Answers of a server that is there but doesn't serve us; the last one is our scripts', of a database that has lost its jobs."""


class JobStoreError(Exception):
    """What the job store raises; its subclasses are StoreUnavailable here and those of worker.job_store."""


class StoreUnavailable(JobStoreError):
    """Redis is away, too slow, full, or refuses to serve; the same call may succeed later."""


def connect(redis_url: str) -> redis.Redis:
    """A client of the server; it connects when it is first used.

    A connection that turns out to be dead is replaced once, at once: after a restart of the server the first call of each
    pooled connection would fail otherwise. A reply that is late is never asked for again.
    """
    return redis.Redis.from_url(
        redis_url,
        decode_responses=True,
        socket_timeout=REPLY_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises StoreUnavailable in place of redis-py's errors, but for those that are defects of this program."""
    try:
        yield
    except (OutOfMemoryError, ReadOnlyError) as error:
        raise StoreUnavailable(f"Redis refuses to write: {error}") from error
    except NoScriptError:
        raise
    except ResponseError as error:
        if not str(error).startswith(_AWAY):
            raise
        raise StoreUnavailable(f"Redis doesn't serve: {error}") from error
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis is away: {error}") from error


class Scripts:
    """The Lua scripts of ``worker/lua``, by file name, for one key prefix."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._prefix = prefix
        sources = {file.name.removesuffix(".lua"): file.read_text() for file in files("worker").joinpath("lua").iterdir()}
        prelude = sources.pop("prelude")
        self._scripts = {name: client.register_script(prelude + source) for name, source in sources.items()}

    def run(self, name: str, *args: str | int) -> Any:
        """Runs a script atomically and returns its answer.

        Raises:
            StoreUnavailable: The server didn't answer; whether the script ran is unknown.
        """
        with translated_errors():
            return self._scripts[name](keys=[self._prefix], args=args)
