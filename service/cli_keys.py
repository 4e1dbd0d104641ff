"""The command ``keys``: makes, lists and revokes API keys, where the artifact store can be reached; no service needs to run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_output import AsJson, ago, fail, print_json, print_table
from service.cli_processes import read_settings

if TYPE_CHECKING:
    from service.api_keys import ApiKey, KeyStore

keys = typer.Typer(help="API keys: who may use the service.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept; default SNAPCYCLE_DATA_DIR.")]


@keys.command("create")
def create(
    *,
    scope: Annotated[str, typer.Option(metavar="SCOPES", help="What it may do: some of read,predict,train,admin.")],
    tenant: Annotated[str, typer.Option(help="Whose datasets, jobs and ensembles it sees.")] = "default",
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    expires: Annotated[float | None, typer.Option(metavar="DAYS", help="When it ends; default never.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once; a running service takes it within two seconds."""
    from pydantic import ValidationError

    from service.key_schemas import ApiKeyRequest

    given = {"scopes": [part.strip() for part in scope.split(",")], "tenant": tenant, "name": name, "expires_in_days": expires}
    try:
        request = ApiKeyRequest.model_validate(given)
    except ValidationError as error:
        names = {"scopes": "scope", "expires_in_days": "expires"}
        fail("\n".join(f"--{names.get(str(item['loc'][0]), item['loc'][0])}: {item['msg']}" for item in error.errors()))
    key, text = _store(data_dir).create(
        scopes=request.scopes, tenant=request.tenant or tenant, name=request.name, expires_in_days=request.expires_in_days
    )
    if as_json:
        print_json({**_document(key), "key": text})
        return
    typer.echo(text)
    typer.echo(f"Key {key.id} of tenant {key.tenant} for {', '.join(key.scopes)}. Keep it: it is shown only now.", err=True)


@keys.command("list")
def list_all(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all keys, without what is secret of them."""
    found = sorted(_store(data_dir).read_all().values(), key=lambda key: key.created_at)
    if as_json:
        print_json([_document(key) for key in found])
        return
    rows = [
        [key.id, key.tenant, ",".join(key.scopes), ago(key.created_at), key.why_unusable_now() or "valid", key.name or ""] for key in found
    ]
    print_table(rows, "key", "tenant", "scopes", "made", "state", "name")


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The 8 characters after sk_, which `keys list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """End a key for good. A running service refuses it within two seconds."""
    from service.api_keys import ID_PATTERN

    if ID_PATTERN.fullmatch(key_id) is None:  # it may be a whole key: nothing of it is repeated
        fail("ID must be the 8 characters after sk_, without the secret part: `snapcycle keys list` shows them")
    key = _store(data_dir).revoke(key_id)
    if key is None:
        fail(f"there is no key {key_id}: `snapcycle keys list` shows all")
    typer.echo(f"Key {key.id} {key.why_unusable_now()}.")


def _store(data_dir: Path | None) -> "KeyStore":
    """The keys; ends the command where they cannot be reached."""
    from service.api_keys import KeyStore, PepperError
    from worker.artifacts import ArtifactError, ArtifactStore

    settings = read_settings(data_dir=data_dir)
    try:
        return KeyStore.open(settings, ArtifactStore.open(settings.artifacts_url))
    except (ArtifactError, PepperError) as error:
        fail(str(error))


def _document(key: "ApiKey") -> dict[str, object]:
    from service.key_schemas import api_key_document

    return api_key_document(key).model_dump(mode="json")
