"""Aliases: names that stand for ensembles, and what happens to them when files are lost."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

from clr.ensemble import Ensemble
from tests.service.conftest import Trained, field_error, problem
from tests.service.test_predictions import ensemble_of, probabilities
from worker.aliases import KEPT_VERSIONS, find_alias, point_alias
from worker.aliases import ensemble_of as alias_target
from worker.artifacts import ArtifactDamaged, ArtifactStore

Submit = Callable[..., str]
FIRST, SECOND = "ens_01M84K9HDDAJZAD5F3E26JSCXC", "ens_01M84K9HDDAJZAD5F3E26JSCXD"


def test_an_alias_is_swapped_and_rolled_back(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    whole = ensemble_of(finished_job)
    made = api.post("/v1/ensembles", json={"members": [f"snap_{finished_job[4:]}_0"]}).json()["id"]
    first = api.put("/v1/aliases/prod", json={"ensemble_id": whole}).json()
    assert (first["name"], first["ensemble_id"], first["version"], first["earlier"]) == ("prod", whole, 1, [])
    assert api.put("/v1/aliases/prod", json={"ensemble_id": whole}).json() == first
    body = {"inputs": trained.x[:3].tolist()}
    assert api.post("/v1/ensembles/prod/predict", json=body).json()["ensemble_id"] == whole
    second = api.put("/v1/aliases/prod", json={"ensemble_id": made}).json()
    assert (second["version"], [each["ensemble_id"] for each in second["earlier"]]) == (2, [whole])
    assert api.get("/v1/ensembles/prod").json()["id"] == made
    expected = Ensemble.load([trained.weights(0)]).predict(trained.x[:3]).numpy()
    np.testing.assert_allclose(probabilities(api.post("/v1/ensembles/prod/predict", json=body)), expected, atol=1e-6)
    assert api.put("/v1/aliases/prod", json={"ensemble_id": second["earlier"][0]["ensemble_id"]}).json()["ensemble_id"] == whole
    assert "prod" in [alias["name"] for alias in api.get("/v1/aliases").json()["data"]]
    assert api.delete("/v1/aliases/prod").status_code == 204
    problem(api.get("/v1/aliases/prod"), 404, "not_found")
    problem(api.post("/v1/ensembles/prod/predict", json=body), 404, "not_found")
    assert "prod" not in [alias["name"] for alias in api.get("/v1/aliases").json()["data"]]


@pytest.mark.parametrize("name", ["Prod", "-a", "a" * 65, "ens_01M84K9HDDAJZAD5F3E26JSCXC"])
def test_names_that_could_be_something_else_are_refused(api: httpx2.Client, finished_job: str, name: str) -> None:
    response = api.put(f"/v1/aliases/{name}", json={"ensemble_id": ensemble_of(finished_job)})
    assert problem(response, 422, "validation_error")["errors"][0]["parameter"] == "name"


def test_an_alias_stands_only_for_what_can_answer(api: httpx2.Client, submit: Submit) -> None:
    for target, words in ((ensemble_of(submit()), "no snapshot yet"), (FIRST, "no ensemble"), ("x", "id of an ensemble")):
        error = field_error(api.put("/v1/aliases/prod", json={"ensemble_id": target}), "#/ensemble_id")
        assert words in error["detail"]


def test_one_lost_or_damaged_copy_changes_nothing(artifacts: ArtifactStore, tmp_path: Path) -> None:
    for target in (FIRST, SECOND):
        point_alias(artifacts, "default", "prod", target)
    folder = tmp_path / "artifacts" / "aliases" / "default" / "prod"
    assert sorted(path.name for path in folder.iterdir()) == [f"00000000{n}{twin}.json" for n in (1, 2) for twin in ("", ".twin")]
    whole = (folder / "000000002.json").read_bytes()
    (folder / "000000002.json").write_bytes(whole.replace(SECOND.encode(), FIRST.encode()))
    assert alias_target(artifacts, "default", "prod") == SECOND
    (folder / "000000002.json").unlink()
    assert alias_target(artifacts, "default", "prod") == SECOND
    (folder / "000000002.twin.json").write_bytes(b"")
    with pytest.raises(ArtifactDamaged, match="PUT /v1/aliases/prod again"):
        alias_target(artifacts, "default", "prod")
    point_alias(artifacts, "default", "prod", FIRST)
    assert alias_target(artifacts, "default", "prod") == FIRST
    assert alias_target(artifacts, "other", "prod") is None


def test_only_the_latest_targets_are_remembered(artifacts: ArtifactStore) -> None:
    for number in range(KEPT_VERSIONS + 5):
        assert point_alias(artifacts, "default", "prod", (FIRST, SECOND)[number % 2]) == number + 1
    alias = find_alias(artifacts, "default", "prod")
    assert alias is not None
    assert (alias.version, alias.ensemble_id) == (KEPT_VERSIONS + 5, FIRST)
    assert KEPT_VERSIONS <= len(alias.earlier) + 1 <= KEPT_VERSIONS + 1
