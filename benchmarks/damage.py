"""F9: flips a bit of, cuts short or deletes any one file of a store, and looks whether anyone is told something wrong.

The store is that of a finished job with three snapshots, of an ensemble that was put together by hand, and of an alias. In each case
one file is damaged. Then the API, with its caches warm or after a restart, is asked for everything that it had said of the store before,
and once more after Redis has lost everything as well. Each answer must be the one of before, or a refusal that the documentation
names (404, 409, 410). A prediction must be the very same, or refused. Only a job whose result was hit may say another thing of itself
once Redis has lost the end as well: that it has failed for want of its result, or waits to come to its end again.
"""

import argparse
import asyncio
import io
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service.app import create_app
from worker.artifacts import ArtifactStore
from worker.job_store import JobStore, connect
from worker.rebuild import rebuild
from worker.redis_connection import connect as connect_to
from worker.settings import Settings
from worker.supervisor import Bench, Outcome, supervise
from worker.trainer_process import TrainerProcess, WarmTrainers
from worker.valkey_server import ValkeyServer

TRAINING = {
    "model": {"architecture": "mlp", "params": {"hidden": [8]}},
    "schedule": {"type": "warm_restarts", "max_lr": 0.1, "cycles": 3, "epochs_per_cycle": 1},
    "batch_size": 16,
}
REFUSALS = (404, 409, 410)
HARMS = ("flip", "cut", "delete")

Json = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A request whose answer is known; ``is_prediction`` says that no other answer will do."""

    method: str
    path: str
    body: Json | None = None
    is_prediction: bool = False


@dataclass(frozen=True)
class Case:
    """What is done to which file, and whether the API is restarted after it."""

    harm: str
    file: str
    is_warm: bool


class Drill:
    """A store with a finished job, and the answers that are true of it."""

    def __init__(self, server: ValkeyServer, directory: Path) -> None:
        self.settings = Settings(redis_url=server.url, data_dir=directory, failpoints=None)
        self.root = directory / "artifacts"
        self.pristine = directory / "pristine"
        self.directory = directory
        self.client = connect_to(server.url)
        self.questions: list[Question] = []
        self.truth: list[Any] = []

    async def prepare(self) -> None:
        """Uploads data, has a job trained, names its ensemble, and notes what the API says."""
        generator = np.random.default_rng(0)
        y = np.arange(120) % 3
        x = (generator.normal(size=(120, 4)) + 2.0 * y[:, None]).astype(np.float32)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, x=x, y=y)
        async with self.api() as api:
            self.rebuild()
            dataset = (await api.post("/v1/datasets", files={"file": ("clouds.npz", file.getvalue())})).json()["id"]
            job_id = (await api.post("/v1/jobs", json={"dataset_id": dataset, **TRAINING})).json()["id"]
            await asyncio.to_thread(self.train, job_id)
            snapshots = [f"snap_{job_id[4:]}_{cycle}" for cycle in range(3)]
            chosen = (await api.post("/v1/ensembles", json={"members": snapshots[:2]})).json()["id"]
            own = f"ens_{job_id[4:]}"
            (await api.put("/v1/aliases/prod", json={"ensemble_id": own})).raise_for_status()
            (await api.put("/v1/aliases/prod", json={"ensemble_id": chosen})).raise_for_status()
            rows = {"inputs": x[:5].tolist()}
            paths = [f"/v1/jobs/{job_id}{part}" for part in ("", "/result", "/snapshots", "/metrics")]
            paths += [f"/v1/snapshots/{each}{part}" for each in snapshots for part in ("", "/weights")]
            paths += [f"/v1/datasets/{dataset}", f"/v1/datasets/{dataset}/preview", f"/v1/ensembles/{chosen}", "/v1/aliases/prod"]
            self.questions = [Question("GET", path) for path in paths]
            for name in (own, chosen, "prod"):
                self.questions.append(Question("POST", f"/v1/ensembles/{name}/predict", rows, is_prediction=True))
            self.truth = [_said(question, await self.ask(api, question)) for question in self.questions]
        shutil.copytree(self.root, self.pristine)

    def train(self, job_id: str) -> None:
        """Runs the job with a trainer of its own."""
        scratch = self.directory / "scratch-trainers"
        scratch.mkdir(exist_ok=True)
        trainers = WarmTrainers(lambda: TrainerProcess.spawn(scratch, device="cpu"))
        artifacts = ArtifactStore.open(self.root)
        bench = Bench("drill", JobStore(connect(self.settings)), artifacts, trainers, lambda _: None, lambda: False, 30, 5, 3600, 15, 3)
        try:
            assert supervise(job_id, bench) == Outcome.FINISHED
        finally:
            trainers.close()

    def rebuild(self) -> None:
        """Empties the database and has the jobs read back."""
        self.client.flushall()
        rebuild(JobStore(self.client), ArtifactStore.open(self.root))

    def api(self) -> "_Api":
        """The application, with its caches empty."""
        return _Api(self.settings)

    async def ask(self, api: httpx2.AsyncClient, question: Question) -> httpx2.Response:
        """One request."""
        return await api.request(question.method, question.path, json=question.body)

    def cases(self, number: int, seed: int) -> list[Case]:
        """Cases at random; every file is hit before one is hit twice in the same way."""
        chance = random.Random(seed)
        files = sorted(str(path.relative_to(self.pristine)) for path in self.pristine.rglob("*") if path.is_file())
        every = [(harm, file) for harm in HARMS for file in files]
        chosen = [pair for _ in range(number // len(every) + 1) for pair in chance.sample(every, len(every))]
        return [Case(harm, file, chance.random() < 0.5) for harm, file in chosen[:number]]

    async def run(self, case: Case, chance: random.Random) -> tuple[str, list[str]]:
        """One case; returns what it came to, and what was wrong."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root)
        self.rebuild()
        wrong: list[str] = []
        refused = 0
        async with self.api() as api:
            if case.is_warm:
                for question in self.questions:
                    await self.ask(api, question)
            _harm(self.root / case.file, case.harm, chance)
            refused += await self._look(api, case, wrong)
        self.rebuild()
        async with self.api() as api:
            refused += await self._look(api, case, wrong, is_rebuilt=True)
        return ("refused" if refused else "harmless"), wrong

    async def _look(self, api: httpx2.AsyncClient, case: Case, wrong: list[str], *, is_rebuilt: bool = False) -> int:
        has_lost_its_end = is_rebuilt and case.file.endswith("result.json")  # the job says so: it is failed, or waits to end once more
        refused = 0
        for question, truth in zip(self.questions, self.truth, strict=True):
            response = await self.ask(api, question)
            if response.status_code in REFUSALS:
                refused += 1
            elif response.status_code != 200:
                wrong.append(f"{case}: {question.method} {question.path} answered {response.status_code} {response.text[:200]}")
            elif _said(question, response) != truth and (question.is_prediction or not has_lost_its_end):
                wrong.append(f"{case}: {question.method} {question.path} says something else than before")
        return refused


class _Api:
    """The application between its start and its end, asked without a socket."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        self._life = self._app.router.lifespan_context(self._app)

    async def __aenter__(self) -> httpx2.AsyncClient:
        await self._life.__aenter__()
        transport = httpx2.ASGITransport(self._app, raise_app_exceptions=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=60)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._life.__aexit__(None, None, None)


VOLATILE = (
    "timing_ms",
    "transitions",
    "progress",
    "best",
    "error",
    "status",
    "phase",
    "allowed_actions",
    "finished_at",
    "config",
    "terminal",
)
"""Members that another answer may have: times, and what a job that was restored knows of itself in another way."""


def _said(question: Question, response: httpx2.Response) -> Any:
    """What an answer says, without what changes from one to the next."""
    if response.headers.get("content-type", "").partition(";")[0] != "application/json":
        return response.content
    document = response.json()
    dropped = {"timing_ms", *(VOLATILE if question.path.startswith("/v1/jobs/") else ())}
    return {name: value for name, value in document.items() if name not in dropped}


def _harm(path: Path, harm: str, chance: random.Random) -> None:
    """Flips one bit, cuts the file short, or deletes it."""
    content = bytearray(path.read_bytes())
    if harm == "delete" or not content:
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


async def campaign(directory: Path, *, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Runs a number of cases; returns how many came to what, and everything that was wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with ValkeyServer(directory / "valkey") as server:
        drill = Drill(server, directory)
        await drill.prepare()
        chance = random.Random(seed)
        for case in drill.cases(cases, seed):
            outcome, found = await drill.run(case, chance)
            counts[outcome] += 1
            wrong += found
    return counts, wrong


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        counts, wrong = asyncio.run(campaign(Path(directory), cases=arguments.cases, seed=arguments.seed))
    for line in wrong:
        print(line)
    told = f"{counts['refused']} refused, {counts['harmless']} harmless, {len(wrong)} wrong"
    print(f"seed {arguments.seed}: {arguments.cases} damaged files, {told}; 95 % bound {3 / arguments.cases:.2%}")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
