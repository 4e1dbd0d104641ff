"""API keys as documents: what makes one, and what is told of one."""

from typing import Annotated, Literal

from pydantic import Field

from clr.strict_model import StrictModel
from service.api_keys import ApiKey
from service.principals import TENANT_PATTERN, Scope
from service.schemas import Document
from worker.job_requests import Name

MAX_EXPIRY_DAYS = 3650


class ApiKeyRequest(StrictModel):
    """A key to make."""

    scopes: tuple[Scope, ...] = Field(min_length=1, max_length=len(Scope), description="What it may be used for.")
    tenant: Annotated[str, Field(pattern=f"^{TENANT_PATTERN.pattern}$")] | None = Field(
        None, description="Whose objects it sees; default: those that the sender sees."
    )
    name: Name | None = None
    expires_in_days: Annotated[float, Field(gt=0, le=MAX_EXPIRY_DAYS)] | None = Field(None, description="When it ends; null: never.")


class ApiKeyDocument(Document):
    """What is told of a key; never the key itself."""

    object: Literal["api_key"] = "api_key"
    id: str = Field(description="The 8 characters after sk_.")
    name: str | None
    tenant: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    links: dict[str, str]


class NewApiKey(ApiKeyDocument):
    """A key at its making."""

    key: str = Field(description="The key itself. It is told this once.")


class ApiKeyPage(Document):
    """Keys, the newest first."""

    object: Literal["list"] = "list"
    data: list[ApiKeyDocument]
    has_more: bool
    first_id: str | None
    last_id: str | None


def api_key_document(key: ApiKey) -> ApiKeyDocument:
    """What is told of a key."""
    return ApiKeyDocument(
        id=key.id,
        name=key.name,
        tenant=key.tenant,
        scopes=list(key.scopes),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        links={"self": f"/v1/api-keys/{key.id}"},
    )
