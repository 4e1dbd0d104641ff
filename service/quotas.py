"""What one tenant may have at a time: waiting jobs, and bytes of datasets.

Counted before something is made, so requests that arrive together may pass a limit by as many as they are.
"""

from service.dependencies import Services
from service.errors import Problem
from service.upload_admission import DatasetQuota
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
    dataset_quota(services).check(new_bytes, "the dataset takes")


def dataset_quota(services: Services) -> DatasetQuota:
    """What the tenant has stored now, and may have."""
    return DatasetQuota(services.datasets.stored_bytes(), services.settings.max_tenant_dataset_bytes)
