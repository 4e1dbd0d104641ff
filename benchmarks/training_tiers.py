"""Training side by side: our runs, the bare tuned loop, the textbook loop, torchensemble, Lightning and fastai on Fashion-MNIST.

All arms of a tier have the same rows, initial weights, order, batches and learning rates (asserted). Throughput leaves out the first
epoch and evaluation, time to an accuracy counts both for us, and for the others the first epoch: they do not evaluate.
torchensemble is calibrated first, and stands three times: with pictures that torchvision's transforms prepare one by one, as its
documentation and examples show it; with rows that somebody has prepared as tensors beforehand; and with a data set that hands out whole
batches of these in a process that keeps freed memory, which neither its documentation nor its examples show. Our own trainers keep freed
memory by themselves, so our arms and the bare loop do too; the other arms run in the environment that a user has.

``make bench-train`` runs it. It goes on where it stopped; ``--minutes 6`` ends it early, between two turns.
"""

import argparse
import json
import os
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare import Campaign, add_campaign_options, campaign_paths, interleaved
from benchmarks.compare_process import OWN_PYTHON, PEERS_PYTHON, ArmProcess
from benchmarks.training_report import show, summary
from benchmarks.training_tiers_data import QUICK, TIERS, Tier, write_shared
from clr.precision import cpu_has_bf16
from worker.trainer_process import memory_environment

Json = dict[str, Any]

CANDIDATES: dict[str, tuple[Json, ...]] = {
    "torchensemble": (
        {"workers": 0},
        {"workers": 1},
        {"workers": 2},
        {"workers": 1, "pin": True},
        {"workers": 0, "fused": True},
        {"workers": 0, "fused": True, "channels_last": True},
        {"workers": 1, "fused": True, "channels_last": True},
    ),
    "torchensemble, pictures": tuple(
        {"workers": workers, "pictures": True, "fused": True, "channels_last": channels_last}
        for workers in (0, 1, 2)
        for channels_last in (False, True)
    ),
    "torchensemble, batches": (
        {"workers": 0, "batched": True},
        {"workers": 1, "batched": True},
        {"workers": 0, "batched": True, "fused": True},
        {"workers": 0, "batched": True, "fused": True, "channels_last": True},
        {"workers": 1, "batched": True, "fused": True, "channels_last": True},
    ),
    "bare loop": ({"bf16": False}, {"bf16": True}),
}
OWN_MODULES = ("training_own", "training_job")
PEER_MODULES = ("training_peers", "training_libraries")
TUNED_PEERS = "training_peers, tuned"
"""Another process of ``training_peers``."""
KEEPS_MEMORY = ("training_own", "training_bare", TUNED_PEERS)
CALIBRATION_ROWS = {"A": 12_800, "B": 2_560, "C": 1_280}
LIBRARY_TIERS = ("A",)
"""Where Lightning and fastai take part: they add a loop of their own, which shows most where a step is short."""


def main() -> None:
    """Runs the campaign, or what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", nargs="+", choices=sorted(TIERS), default=sorted(TIERS))
    parser.add_argument("--repeats", type=int, default=5, help="each with another seed")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no turn after this long")
    add_campaign_options(parser)
    arguments = parser.parse_args()
    paths = campaign_paths("training", arguments)
    tiers = {name: (QUICK if arguments.quick else TIERS)[name] for name in TIERS}
    settings = {
        "tiers": {name: vars(tier) for name, tier in tiers.items()},
        "cores": sorted(os.sched_getaffinity(0)),
        "keeps_memory": KEEPS_MEMORY,
    }
    settings = json.loads(json.dumps(settings))
    campaign = Campaign(paths.turns, "training", settings, fresh=arguments.fresh or arguments.quick)
    deadline = time.monotonic() + 60 * arguments.minutes
    repeats = 1 if arguments.quick else arguments.repeats
    for names in (
        (arguments.tiers,) if arguments.quick else ((name,) for name in arguments.tiers)
    ):  # fresh processes show a tier's own memory
        with ExitStack() as stack:
            arms = Arms(stack, quick=arguments.quick)
            for name in names:
                run_tier(campaign, tiers[name], arms, repeats=repeats, deadline=deadline)
    figures = summary(campaign, tiers)
    campaign.write(figures)
    paths.publish()
    show(campaign, figures, charts=paths.charts)


class Arms:
    """The processes, started when the first turn needs them, and the tier that they have read."""

    def __init__(self, stack: ExitStack, *, quick: bool) -> None:
        self._stack, self.quick = stack, quick
        self._processes: dict[str, ArmProcess] = {}

    def __getitem__(self, name: str) -> ArmProcess:
        """The process of a module of ``benchmarks.compare_arm``, or ``TUNED_PEERS``."""
        if name not in self._processes:
            cores = sorted(os.sched_getaffinity(0))
            module = name.partition(",")[0]
            python = PEERS_PYTHON if module in PEER_MODULES else OWN_PYTHON
            environment = memory_environment() if name in KEEPS_MEMORY else {}
            process = ArmProcess(python, module, cores=cores, threads=len(cores), environment=environment)
            self._processes[name] = self._stack.enter_context(process)
        return self._processes[name]

    def read(self, tier: Tier, directory: Path) -> None:
        """Gives every arm the rows of the next repeat."""
        for module in OWN_MODULES:
            self[module]("read", tier=tier.name, directory=str(directory), quick=self.quick)
        for module in ("training_bare", "training_peers", TUNED_PEERS, *(["training_libraries"] if tier.name in LIBRARY_TIERS else [])):
            self[module]("read", network=tier.network, directory=str(directory))

    def check(self, tier: Tier, seed: int) -> None:
        """Raises unless all begin with the same weights and rows."""
        own = self["training_own"]("first_loss", tier=tier.name, seed=seed, quick=self.quick)
        other = self["training_peers"]("first_loss")
        if abs(own - other) > 1e-3:
            raise SystemExit(f"the first loss of the arms must agree within 0.001, got {own} (ours) and {other} (peers)")

    def versions(self, tier: Tier) -> Json:
        """Of the peers."""
        found: Json = self["training_peers"]("peer_versions")
        return {**found, **self["training_libraries"]("peer_versions")} if tier.name in LIBRARY_TIERS else found

    def call(self, tier: Tier, arm: str, seed: int, best: dict[str, Json]) -> Json:
        """Measures an arm once."""
        own: Json = {"tier": tier.name, "seed": seed, "quick": self.quick}
        workers = best["torchensemble"]["workers"]
        calls: dict[str, tuple[str, str, Json]] = {
            "snapcycle": ("training_own", "run", own),
            "snapcycle, fp32": ("training_own", "run", own | {"precision": "fp32"}),
            "snapcycle, whole job": ("training_job", "run", own),
            "bare loop": ("training_bare", "run", {"cycles": tier.cycles, **best["bare loop"]}),
            "torchensemble": ("training_peers", "torchensemble", {"cycles": tier.cycles, **best["torchensemble"]}),
            "torchensemble, pictures": ("training_peers", "torchensemble", {"cycles": tier.cycles, **best["torchensemble, pictures"]}),
            "torchensemble, batches": (TUNED_PEERS, "torchensemble", {"cycles": tier.cycles, **best["torchensemble, batches"]}),
            "textbook loop": ("training_peers", "textbook", {"cycles": tier.cycles, "workers": workers}),
            "Lightning": ("training_libraries", "run_lightning", {"workers": workers}),
            "fastai": ("training_libraries", "run_fastai", {"workers": workers}),
        }
        module, function, given = calls[arm]
        return self[module](function, **given)  # type: ignore[no-any-return]


def run_tier(campaign: Campaign, tier: Tier, arms: Arms, *, repeats: int, deadline: float) -> None:
    """All turns of a tier, each repeat with a seed of its own."""
    with tempfile.TemporaryDirectory(prefix="snapcycle-tiers-") as directory:
        prepared: int | None = None
        for repeat, name in interleaved(_names(tier), repeats):
            if time.monotonic() > deadline:
                return
            if campaign.has(tier.name, name, repeat):
                continue
            if prepared != repeat:
                shared = Path(directory) / str(repeat)
                write_shared(tier, repeat, shared)
                arms.read(tier, shared)
                arms.check(tier, repeat)
                campaign.turn(f"{tier.name} versions", "peers", 0, partial(arms.versions, tier))
                prepared = repeat
            best = calibrated(campaign, tier, arms)
            turn = campaign.turn(tier.name, name, repeat, partial(arms.call, tier, name, repeat, best))
            print(f"tier {tier.name}, repeat {repeat}, {name}: {turn.figures['seconds']:.1f} s", flush=True)


def _names(tier: Tier) -> list[str]:
    names = [
        "snapcycle",
        "torchensemble",
        "snapcycle, whole job",
        "bare loop",
        "torchensemble, batches",
        "textbook loop",
        "torchensemble, pictures",
    ]
    if cpu_has_bf16():  # else "auto" is float32 already
        names.append("snapcycle, fp32")
    return [*names, "Lightning", "fastai"] if tier.name in LIBRARY_TIERS else names


def calibrated(campaign: Campaign, tier: Tier, arms: Arms) -> dict[str, Json]:
    """The fastest settings of each arm that has some, by the second of two short epochs; measured once in a campaign."""
    rows = 256 if arms.quick else CALIBRATION_ROWS[tier.name]
    best = {}
    for name, candidates in CANDIDATES.items():
        peers = arms[TUNED_PEERS if name == "torchensemble, batches" else "training_peers"]
        process, function = (arms["training_bare"], "run") if name == "bare loop" else (peers, "torchensemble")

        def measure(process: ArmProcess = process, function: str = function, candidates: tuple[Json, ...] = candidates) -> Json:
            rates = []
            for candidate in candidates:
                first, second = process(function, cycles=1, epochs=2, rows=rows, **candidate)["epoch_ends"]
                rates.append(rows / (second - first))
            fastest = max(range(len(candidates)), key=rates.__getitem__)
            return {"candidates": list(candidates), "images_per_second": rates, "best": candidates[fastest]}

        best[name] = campaign.turn(f"{tier.name} calibration", name, 0, measure).figures["best"]
    return best


if __name__ == "__main__":
    main()
