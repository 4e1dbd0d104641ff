"""What programs of another version have written is read, or refused with the remedy (F17); made up here, until there are two releases."""

import json
from collections.abc import Callable

import pytest
import redis

from tests.worker.test_job_store import LEASE_MS, MAX_CRASHES, record_of, submit
from worker.artifacts import ArtifactDamaged, ArtifactStore
from worker.job_specs import JobSpec, read_spec
from worker.job_store import Claim, JobStore
from worker.jobs import DEFAULT_TENANT, JobStatus, Priority
from worker.records import spec_key, write_document
from worker.stored_specs import stored_spec

NewSpec = Callable[[], JobSpec]
LATER_ADDITIONS = ("tenant", "priority", "parent_id", "max_seconds", "idempotency_key_sha256", "body_sha256", "max_lr_from", "landscape")
"""Fields of a spec that the first jobs did not have."""


def test_a_spec_without_the_later_fields_is_read_with_their_defaults(new_spec: NewSpec) -> None:
    spec = new_spec()
    earlier = {name: value for name, value in spec.model_dump(mode="json").items() if name not in LATER_ADDITIONS}
    read = read_spec(json.dumps(earlier))
    assert (read.tenant, read.priority, read.parent_id, read.max_seconds) == (DEFAULT_TENANT, Priority.NORMAL, None, None)
    assert (read.id, read.config) == (spec.id, spec.config)


@pytest.mark.parametrize("change", [{"a_later_field": 1}, {"kind": "a_later_kind"}, {"priority": "a_later_priority"}])
def test_a_spec_of_a_later_version_is_refused_with_the_remedy_and_stays_as_it_is(
    artifacts: ArtifactStore, new_spec: NewSpec, change: dict[str, object]
) -> None:
    spec = new_spec()
    write_document(artifacts, spec_key(spec.id), spec.model_dump(mode="json") | change)
    before = artifacts.read(spec_key(spec.id))
    with pytest.raises(ArtifactDamaged, match=r"is a job of another version of this program .*: run it there, or submit it again"):
        stored_spec(artifacts, spec.id)
    assert artifacts.read(spec_key(spec.id)) == before, "the version that made it can still run it"


def test_a_live_record_with_fewer_and_with_more_fields_goes_through_its_life(
    job_store: JobStore, new_spec: NewSpec, redis_client: redis.Redis
) -> None:
    spec = new_spec()
    submit(job_store, spec)
    key = f"snapcycle:job:{spec.id}"
    assert redis_client.hdel(key, "tenant", "priority") == 2
    redis_client.hset(key, "a_later_field", "x")
    claim = job_store.claim(spec.id, "worker-1", LEASE_MS, MAX_CRASHES)
    assert isinstance(claim, Claim)
    record = record_of(job_store, spec.id)
    assert (record.tenant, record.priority, record.status) == (DEFAULT_TENANT, Priority.NORMAL, JobStatus.RUNNING)
    assert job_store.report(spec.id, claim.epoch, progress={"step": 1, "a_later_number": 2})
    assert job_store.release(spec.id, claim.epoch, "drained")
    again = job_store.claim(spec.id, "worker-2", LEASE_MS, MAX_CRASHES)
    assert isinstance(again, Claim)
    assert job_store.finish(spec.id, again.epoch, JobStatus.SUCCEEDED, extensions=0)
    assert redis_client.hget(key, "a_later_field") == "x"
