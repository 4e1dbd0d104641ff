"""What one tenant may have at a time: waiting jobs, and bytes of datasets.

Counted before something is made, so requests that arrive together may pass a limit by as many as they are.
"""

from service.dependencies import Services
from service.errors import Problem
from worker.job_store import JobStore


def check_queue_quota(services: Services, store: JobStore) -> None:
    """Returns if the tenant may have one more waiting job.

    Raises:
        Problem: It has as many as one may have.
        StoreUnavailable: The job store is away, or its jobs are being read back.
    """
    limit = services.settings.max_queued_jobs
    waiting = store.num_queued(tenant=services.tenant)
    if waiting >= limit:
        detail = f"{waiting} jobs wait, and a tenant may have at most {limit}: wait until some have run, or cancel some"
        raise Problem("quota_exceeded", detail, extra={"queued_jobs": waiting, "limit_queued_jobs": limit})


def check_dataset_quota(services: Services, new_bytes: int) -> None:
    """Returns if the tenant may store a dataset of this size.

    Raises:
        Problem: With it there would be more bytes than one may have.
    """
    limit = services.settings.max_tenant_dataset_bytes
    stored = services.datasets.stored_bytes()
    if stored + new_bytes > limit:
        detail = f"the dataset takes {new_bytes} bytes and those that are stored {stored}, and a tenant may have at most {limit}"
        raise Problem(
            "quota_exceeded",
            f"{detail}: delete datasets that are not needed",
            extra={"stored_bytes": stored, "limit_stored_bytes": limit},
        )
