"""The Celery application: how a job's id gets from the API to a worker, and nothing more.

A message is a hint and may be lost or come twice: the job store decides who runs what, and the reconciler sends lost ids again.
So messages are taken without acknowledgement, there is no result backend, and a worker asks for one only when it is idle.
"""

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.exceptions import CeleryError
from kombu.asynchronous import get_event_loop
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from worker.failpoints import failpoint
from worker.fleet import QUEUE
from worker.settings import Settings, broker_url

if TYPE_CHECKING:
    app: Celery

logger = logging.getLogger(__name__)

TASK_NAME = "snapcycle.run"
KEY_PREFIX = "snapcycle:"
"""Before all of kombu's keys, as before the job store's."""


class WakingTaskPool(TaskPool):  # type: ignore[misc]  # celery ships no types
    """The thread pool, but the end of a task wakes the event loop.

    With ``worker_disable_prefetch`` the loop asks for the next message only when it comes round and finds no task; without a wake-up
    that is at the next timer, up to ten seconds later (kombu 5.7, ``Hub.fire_timers``).
    """

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:
        result: ApplyResult = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(_wake_event_loop)
        return result


def _wake_event_loop(_: Future[Any]) -> None:
    loop = get_event_loop()
    if loop is not None:
        loop.call_soon(_nothing)  # type: ignore[no-untyped-call]  # kombu's types are partial


def _nothing() -> None:
    """A callback for its wake-up only."""


def create_celery(settings: Settings) -> Celery:
    """An application that can publish job ids; ``worker.tasks`` makes it one that can run them."""
    app = Celery("snapcycle", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        # Early acknowledgement taken to its end: kombu books no "unacked" message, which saves two synced writes before a job starts
        # and leaves nothing that could be redelivered to a second worker after the visibility timeout.
        task_queues=[Queue(QUEUE, routing_key=QUEUE, no_ack=True)],  # type: ignore[no-untyped-call]  # as above
        task_default_queue=QUEUE,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_concurrency=1,
        worker_pool="worker.celery_app:WakingTaskPool",
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # Publishing to a frozen server takes three of these time-outs. Longer than kombu's BRPOP of one second.
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
            "global_keyprefix": KEY_PREFIX,
        },
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
    )
    return app


def publish(app: Celery, job_id: str) -> bool:
    """Sends a job's id to the workers; false where the broker is away, and the reconciler will send it later."""
    try:
        failpoint("message.before_send")
        app.send_task(TASK_NAME, args=[job_id], queue=QUEUE, ignore_result=True)
        failpoint("message.sent")
    except (OperationalError, CeleryError, OSError) as error:
        logger.warning("job %s: its message was not sent (%s); the reconciler will send it", job_id, error)
        return False
    return True


def __getattr__(name: str) -> Any:
    """Builds ``app`` from the environment on first use, for ``celery -A worker.celery_app worker``."""
    if name == "app":
        from worker.tasks import worker_app

        globals()["app"] = worker_app(Settings())
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
