"""A study in the trainer process: makes the table of what its runs have left behind. It imports torch.

An interrupted study begins its table again, which takes seconds: the runs are what takes time, and they have ended.
"""

import time
from pathlib import Path
from typing import Any

import orjson

from clr.snapshots import load_outputs
from clr.studies import plan_study
from clr.study_outcomes import FailedRun, RunOutcome
from clr.study_report import study_report
from worker.job_specs import StudySpec
from worker.jobs import Phase
from worker.protocol import EXIT_DRAINED, Finished, FirstStep, ResultStaged, Started, TrainerJob
from worker.trainer_dialogue import Requests, Send

Json = dict[str, Any]


class _Interrupted(Exception):
    """The table is not wanted any more, or not here."""


class StudyJob:
    """The table of one study in this process."""

    def __init__(self, spec: StudySpec, job: TrainerJob, device: str, send: Send, requests: Requests) -> None:  # noqa: ARG002
        self._spec = spec
        self._job = job
        self._send = send
        self._requests = requests

    def to_end(self) -> int:
        """Measures, and returns the exit status."""
        self._send(Started(config=self._spec.config.model_dump(mode="json")))
        self._send(FirstStep(at=time.time(), phase=Phase.MEASURING))
        try:
            self._send(ResultStaged(document=self._document()))
        except _Interrupted:
            if self._requests.drain:
                return EXIT_DRAINED
            self._send(Finished(stop_reason="stopped"))
            return 0
        self._send(Finished(stop_reason=None))
        return 0

    def _document(self) -> Json:
        """The table, and the jobs that it is made of."""
        keys = [run.key for run in plan_study(self._spec.config).runs]
        results = {key: orjson.loads(Path(self._job.files[f"{key}/result"]).read_bytes()) for key in keys}
        outcomes = {key: self._outcome(key, results[key]) for key in keys}
        report = study_report(self._spec.config, outcomes, on_measured=self._look_at_requests)
        runs = [{"key": key, "job_id": self._job.documents[key]["job_id"], "status": results[key]["status"]} for key in keys]
        return report | {"runs": runs}

    def _outcome(self, key: str, result: Json) -> RunOutcome | FailedRun:
        document = self._job.documents[key]
        if not document["cycles"]:
            return FailedRun(_reason(result))
        return RunOutcome(
            outputs=[load_outputs(Path(self._job.files[f"{key}/{cycle}"])) for cycle in document["cycles"]],
            rows=result["history"]["rows"],
            num_steps=document["num_steps"],
            search_epochs=(result["output"]["learning_rate"] or {}).get("epochs", 0.0),
            steps_per_epoch=self._spec.steps_per_epoch,
        )

    def _look_at_requests(self) -> None:
        if self._requests.drain or self._requests.stop:
            raise _Interrupted


def _reason(result: Json) -> str:
    """Why a run cannot be compared with the others."""
    if result["error"]:
        return str(result["error"]["message"])
    return f"it was {result['stop_reason'] or result['status']} before it had spent its budget"
