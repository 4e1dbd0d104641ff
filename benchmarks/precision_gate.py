"""Whether bf16 trains ensembles as good as float32's: the gate that an architecture passes before ``precision: auto`` may take bf16.

Both precisions train from the same weights, over the same rows in the same order, five seeds each, on Fashion-MNIST. An architecture
passes if over the seeds the ensembles' mean test accuracy is within ``MAX_POINTS``, and their mean test NLL is no higher: its excess is
below ``MAX_NLL_SHARE`` of float32's, and the 95 % interval of the paired ratios reaches down to equality.

``make bench-precision`` runs it, in about ten minutes. It goes on where it stopped; ``--minutes 3`` ends it early, between two turns.
"""

import argparse
import dataclasses
import json
import statistics
import time
from functools import partial
from typing import Any

from benchmarks.compare import Campaign, add_campaign_options, campaign_paths, interleaved
from benchmarks.training_tiers_data import QUICK, TIERS, Tier, dataset_of
from clr.datasets import Dataset
from clr.precision import MIN_PRODUCTS, cpu_has_bf16
from clr.training import CycleEnd, train

Json = dict[str, Any]

CASES: tuple[Tier, ...] = (
    dataclasses.replace(TIERS["A"], rows=60_000),
    dataclasses.replace(TIERS["B"], rows=10_000, test_rows=10_000),
    dataclasses.replace(TIERS["C"], rows=5_000, cycles=3, epochs_per_cycle=2, test_rows=10_000),
)
SEEDS = 5
MAX_POINTS = 0.2
MAX_NLL_SHARE = 0.005


def main() -> None:
    """Trains what is still missing, prints the comparison and writes it; fails if the rule takes bf16 for what doesn't pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", nargs="+", choices=[case.name for case in CASES], default=[case.name for case in CASES])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no turn after this long")
    add_campaign_options(parser)
    arguments = parser.parse_args()
    if not cpu_has_bf16():
        print("note: this processor has no bf16 units; the figures show its emulation")
    cases = {case.name: QUICK[case.name] if arguments.quick else case for case in CASES}
    settings = json.loads(json.dumps({name: vars(case) for name, case in cases.items()}))
    paths = campaign_paths("precision_gate", arguments)
    campaign = Campaign(paths.turns, "precision", settings, fresh=arguments.fresh or arguments.quick)
    deadline = time.monotonic() + 60 * arguments.minutes
    for name in arguments.tiers:
        dataset = dataset_of(cases[name])
        for seed, precision in interleaved(("fp32", "bf16"), SEEDS):
            if time.monotonic() > deadline:
                break
            campaign.turn(name, precision, seed, partial(run, cases[name], dataset, seed, precision))
    verdicts = {name: verdict(campaign, case) for name, case in cases.items() if campaign.has(name, "bf16") and campaign.has(name, "fp32")}
    campaign.write(verdicts)
    paths.publish()
    for name, found in verdicts.items():
        told = "passes" if found["passes"] else "doesn't pass" if found["pairs"] == SEEDS else "seeds are missing"
        print(f"tier {name} ({found['architecture']}), {found['pairs']} seeds: {told}")
        print(f"  accuracy {found['accuracy']['fp32']:.4f} in fp32, {found['points']:+.2f} points in bf16")
        print(f"  NLL {found['nll']['fp32']:.4f} in fp32, bf16/fp32 {found['nll_ratio']}; fp32/bf16 seconds {found['gain']}", flush=True)
    failed = [found["architecture"] for found in verdicts.values() if found["pairs"] == SEEDS and not found["passes"]]
    failed = [architecture for architecture in failed if architecture in MIN_PRODUCTS]
    if failed and not arguments.quick:
        raise SystemExit(f"clr.precision takes bf16 for what doesn't pass: {', '.join(failed)}")


def run(tier: Tier, dataset: Dataset, seed: int, precision: str) -> Json:
    """The last ensemble's figures on the test rows."""
    began = time.perf_counter()
    *_, last = (event for event in train(tier.config(seed, precision=precision), dataset) if isinstance(event, CycleEnd))
    return {"seconds": time.perf_counter() - began, "accuracy": last.ensemble.test["accuracy"], "nll": last.ensemble.test["nll"]}


def verdict(campaign: Campaign, tier: Tier) -> Json:
    """What all seeds of a tier show, as far as both precisions have run."""
    precisions = ("fp32", "bf16")
    found = {figure: {each: campaign.values(tier.name, each, figure) for each in precisions} for figure in ("accuracy", "nll")}
    pairs = min(len(values) for values in found["nll"].values())
    accuracy, nll = ({each: statistics.fmean(values[each][:pairs]) for each in precisions} for values in found.values())
    points = 100 * (accuracy["bf16"] - accuracy["fp32"])
    nll_ratio, gain = campaign.ratio(tier.name, "bf16", "fp32", "nll"), campaign.ratio(tier.name, "fp32", "bf16", "seconds")
    assert nll_ratio is not None
    return {
        "architecture": str(tier.model["architecture"]),
        "pairs": pairs,
        "accuracy": accuracy,
        "nll": nll,
        "points": points,
        "nll_ratio": f"{nll_ratio.mean:.4f} ({nll_ratio.low:.4f} to {nll_ratio.high:.4f})",
        "gain": str(gain),
        "passes": pairs == SEEDS and abs(points) <= MAX_POINTS and nll_ratio.mean <= 1 + MAX_NLL_SHARE and nll_ratio.low <= 1,
    }


if __name__ == "__main__":
    main()
