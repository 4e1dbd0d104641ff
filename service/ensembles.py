"""Which snapshots stand behind an ensemble id: those of a job, or those that someone chose."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from service.errors import Problem
from service.shared_looks import SharedLooks
from worker.aliases import ensemble_of, is_alias
from worker.artifacts import ArtifactStore
from worker.ids import is_id, job_id_of_ensemble
from worker.job_store import JobStore, StoreUnavailable
from worker.jobs import DEFAULT_TENANT, JobKind, JobRecord
from worker.records import ensemble_key, read_document

REMEMBERED = 1000
REFRESH_SECONDS = 0.005
"""How old what was found may be before predictions that are not alone have it looked up again, without waiting: an ensemble grows by a
snapshot every few seconds at most, and to ask Redis for each of thousands of predictions a second takes longer than to compute them."""
FRESH_SECONDS = 0.05
"""How old it may be at most. Many connections that wait for one pass ask in bursts, tens of milliseconds apart."""


@dataclass(frozen=True)
class Members:
    """One version of an ensemble.

    Attributes:
        snapshots: The manifests of its members, in cycle order.
        earlier: The manifests that came before them, which an earlier version may have had as members.
    """

    ensemble_id: str
    version: int
    snapshots: tuple[Mapping[str, Any], ...]
    earlier: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The sha256 of each member's weights, in order."""
        return tuple(snapshot["files"]["weights"]["sha256"] for snapshot in self.snapshots)

    @cached_property
    def origin(self) -> str:
        """What X-Ensemble says: ens_…@5."""
        return f"{self.ensemble_id}@{self.version}"


class EnsembleDirectory:
    """Finds the members of ensembles, and remembers them for when Redis is away."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore, *, tenant: str = DEFAULT_TENANT) -> None:
        self._store = store
        self._tenant = tenant
        self._artifacts = artifacts
        self._chosen: OrderedDict[str, Members] = OrderedDict()
        self._grown: OrderedDict[str, Members] = OrderedDict()
        self._looks: SharedLooks[Members] = SharedLooks(fresh_seconds=FRESH_SECONDS, refresh_seconds=REFRESH_SECONDS)

    def find(self, ensemble_id: str, version: int | None = None) -> Members:
        """The members of a version, by default of the latest.

        A job's ensemble that was used before answers as it was last seen while Redis is away.

        Raises:
            Problem: No such ensemble, alias or version, or no snapshot yet.
            StoreUnavailable: Redis is away and the ensemble was not used before.
        """
        ensemble_id = self.resolve(ensemble_id)
        chosen = self._chosen.get(ensemble_id)
        latest = chosen or self._latest(ensemble_id)
        if version is None or version == latest.version:
            return latest
        if version > latest.version or ensemble_id in self._chosen:
            raise Problem(
                "not_found", f"{ensemble_id} has the versions 1 to {latest.version}, got version {version}: leave it out for the latest"
            )
        return _grown(ensemble_id, (*latest.earlier, *latest.snapshots)[:version])

    def recent(self, ensemble_id: str, version: int | None = None) -> Members | None:
        """What was found at most ``FRESH_SECONDS`` ago: where many ask at once."""
        return self._looks.recent((ensemble_id, version), partial(self.find, ensemble_id, version))

    async def find_soon(self, ensemble_id: str, version: int | None = None) -> Members:
        """As ``find``, from an event loop. Requests that come while it is busy with the ensemble share the next look, which begins after
        they came: none is told less than was stored before it was sent.
        """
        return await self._looks.share((ensemble_id, version), partial(self.find, ensemble_id, version))

    def resolve(self, name: str) -> str:
        """The id of the ensemble that an id or an alias stands for; the text itself where it is neither."""
        if not is_alias(name):
            return name
        return ensemble_of(self._artifacts, self._tenant, name) or name

    def chosen(self, ensemble_id: str) -> dict[str, Any] | None:
        """The stored document of an ensemble that was put together by hand; None where there is none."""
        stored = read_document(self._artifacts, ensemble_key(ensemble_id)) if is_id("ens", ensemble_id) else None
        return stored if stored is not None and stored.get("tenant", DEFAULT_TENANT) == self._tenant else None

    def _latest(self, ensemble_id: str) -> Members:
        if not is_id("ens", ensemble_id):
            raise unknown_ensemble(ensemble_id)
        job_id = job_id_of_ensemble(ensemble_id)
        try:
            snapshots = _without_gap(self._store.snapshots(job_id))
        except StoreUnavailable:
            if ensemble_id in self._grown:
                return self._grown[ensemble_id]
            raise
        if snapshots:
            return _remember(self._grown, _grown(ensemble_id, snapshots))
        if (stored := self.chosen(ensemble_id)) is not None:
            return _remember(self._chosen, Members(ensemble_id, 1, tuple(stored["snapshots"])))
        self._grown.pop(ensemble_id, None)
        record = self._store.get(job_id)
        raise unknown_ensemble(ensemble_id) if record is None or record.kind is not JobKind.TRAIN else _not_ready(record)


def _without_gap(snapshots: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The snapshots before the first that is lost, which its job will take again: versions count them, and none may be left out."""
    return tuple(snapshot for index, snapshot in enumerate(snapshots) if snapshot["cycle"] == index)


def member_snapshots(snapshots: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Of a job's snapshots those that answer: all, or as many of the last ones as its run found best on validation."""
    count = (snapshots[-1].get("ensemble") or {}).get("members", len(snapshots)) if snapshots else 0
    return tuple(snapshots[len(snapshots) - count :])


def _grown(ensemble_id: str, snapshots: tuple[Mapping[str, Any], ...]) -> Members:
    members = member_snapshots(snapshots)
    return Members(ensemble_id, len(snapshots), members, snapshots[: len(snapshots) - len(members)])


def unknown_ensemble(ensemble_id: str) -> Problem:
    """The 404 for an ensemble."""
    return Problem("not_found", f"there is no ensemble or alias {ensemble_id[:64]!r}: a train job names its own as ensemble_id")


def _not_ready(record: JobRecord) -> Problem:
    if record.status.is_terminal:
        return Problem("not_ready", f"{record.id} is {record.status} and has left no snapshot: submit a new job")
    eta = record.progress.get("eta_seconds")
    expected = f"; the whole job needs about {eta:.0f} s more" if eta is not None else ""
    return Problem(
        "not_ready",
        f"{record.id} is {record.status} and has no snapshot yet{expected}: follow its events, the first snapshot ends cycle 0",
        extra={"job_id": record.id, "job_status": record.status, "progress": record.progress},
    )


def _remember(known: OrderedDict[str, Members], members: Members) -> Members:
    known[members.ensemble_id] = members
    while len(known) > REMEMBERED:
        known.popitem(last=False)
    return members
