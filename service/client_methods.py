"""How one description of a call becomes a method of both clients: one that returns, and one to await."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from service.client_core import Call, Json

if TYPE_CHECKING:
    from service.client import AsyncClient, Client
    from service.client_jobs import AsyncJob, Job

T = TypeVar("T")
P = ParamSpec("P")
C = TypeVar("C", bound="Client | AsyncClient")


class Part(Generic[C]):
    """A part of a client's interface; ``ids`` go in front of the arguments of its methods."""

    def __init__(self, client: C, *ids: str) -> None:
        self.client = client
        self.ids = ids


class Method(Generic[P, T]):
    """A call as a method: returns its result under a ``Client``, an awaitable of it under an ``AsyncClient``."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self.call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, part: Part["Client"], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, part: Part["AsyncClient"], owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        @functools.wraps(self.call)
        def method(*args: Any, **kwargs: Any) -> Any:
            return part.client.send(self.call(*part.ids, *args, **kwargs))

        return method


class JobMethod(Method[P, Json]):
    """A call that brings a job: ``Job`` under a ``Client``, an awaitable of ``AsyncJob`` under an ``AsyncClient``."""

    @overload  # type: ignore[override]  # a method that brings a Job in place of its object
    def __get__(self, part: Part["Client"], owner: type) -> Callable[P, "Job"]: ...
    @overload
    def __get__(self, part: Part["AsyncClient"], owner: type) -> Callable[P, Awaitable["AsyncJob"]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        @functools.wraps(self.call)
        def method(*args: Any, **kwargs: Any) -> Any:
            return part.client.send_for_job(self.call(*part.ids, *args, **kwargs))

        return method


class ListMethod(Method[P, Json]):
    """A call that brings the first page of a list: iterates over all its objects, page after page."""

    @overload  # type: ignore[override]  # an iterator in place of a page
    def __get__(self, part: Part["Client"], owner: type) -> Callable[P, Iterator[Json]]: ...
    @overload
    def __get__(self, part: Part["AsyncClient"], owner: type) -> Callable[P, AsyncIterator[Json]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        @functools.wraps(self.call)
        def method(*args: Any, **kwargs: Any) -> Any:
            return part.client.pages(self.call(*args, **kwargs))

        return method


def of_id(call: Callable[Concatenate[str, P], Call[T]]) -> Callable[P, Call[T]]:
    """A call whose first argument, an id, comes from the part that it is a method of."""
    return cast(Callable[P, Call[T]], call)
