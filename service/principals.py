"""Who sends a request: the tenant whose objects it sees, and the scopes that say what it may do."""

import re
from dataclasses import dataclass
from enum import StrEnum

from worker.jobs import DEFAULT_TENANT

TENANT_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Scope(StrEnum):
    """What a key may be used for. None includes another one."""

    READ = "read"
    """Look at jobs, datasets, snapshots, ensembles and figures, and download weights."""
    PREDICT = "predict"
    """Ask ensembles for predictions."""
    TRAIN = "train"
    """Make, change and delete datasets, jobs, ensembles and aliases."""
    ADMIN = "admin"
    """Make, list and revoke keys."""


@dataclass(frozen=True)
class Principal:
    """The sender of one request.

    Attributes:
        tenant: Only this tenant's objects exist for the request.
        scopes: What it may do.
        key_id: The public part of the key; None where the service asks for none.
    """

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    @property
    def manages_all_tenants(self) -> bool:
        """Whether it is the operator's, who makes and revokes the keys of every tenant: an admin of the default one."""
        return self.tenant == DEFAULT_TENANT and Scope.ADMIN in self.scopes


ANYONE = Principal(DEFAULT_TENANT, frozenset(Scope))
"""The sender of every request to a service that asks for no key."""
