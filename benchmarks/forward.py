"""The forward pass of five members: ``clr.ensemble.Ensemble``, the loop over the members, torch's vmap, torchensemble's predict.

All arms begin with the same rows of bytes and end with the mean probabilities, which must agree with the loop's within 1e-4.
``make bench-forward`` runs it.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.charts import Bar, Panel, draw, shown_spread, table
from benchmarks.compare import Campaign, add_campaign_options, campaign_paths, interleaved, spread
from benchmarks.compare_process import OWN_PYTHON, PEERS_PYTHON, ArmProcess
from benchmarks.training_tiers_data import TIERS

Json = dict[str, Any]

OWN_ARMS = ("snapcycle", "snapcycle, with uncertainty")
PEER_ARMS = ("loop", "vmap", "torchensemble")
ARMS = ("snapcycle", *PEER_ARMS, "snapcycle, with uncertainty")
BATCHES = (1, 8, 32, 64, 512)
TOLERANCE = 1e-4


def main() -> None:
    """Runs the campaign, or what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", nargs="+", choices=sorted(TIERS), default=["A", "B", "C"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="rows of a call")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.25, help="of calls, each turn")
    add_campaign_options(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.threads, arguments.seconds = 2, [1], 0.02
    paths = campaign_paths("forward", arguments)
    campaign = Campaign(paths.turns, "forward", {"members": 5, "seconds": arguments.seconds}, fresh=arguments.fresh or arguments.quick)
    for tier in arguments.tiers:
        for threads in arguments.threads:
            if any((f"{tier} {threads} {batch}", 0) not in {(t.case, t.repeat) for t in campaign.turns} for batch in arguments.batches):
                run_case(campaign, tier, threads, arguments)
    campaign.write(summary(campaign))
    paths.publish()
    show(campaign, paths.charts)


def run_case(campaign: Campaign, tier: str, threads: int, arguments: argparse.Namespace) -> None:
    """All turns of a network with a number of threads, on as many cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="snapcycle-forward-") as directory:
        own = stack.enter_context(ArmProcess(OWN_PYTHON, "forward_own", cores=cores, threads=threads))
        peers = stack.enter_context(ArmProcess(PEERS_PYTHON, "forward_peers", cores=cores, threads=threads))
        own("prepare", tier=tier, directory=directory)
        peers("prepare", network=TIERS[tier].network, directory=directory)
        for batch in arguments.batches:
            check(own, peers, batch)
            for repeat, arm in interleaved(ARMS, arguments.repeats):
                process = own if arm in OWN_ARMS else peers
                call: Json = {"arm": arm, "batch": batch, "seconds": arguments.seconds}
                campaign.turn(f"{tier} {threads} {batch}", arm, repeat, lambda process=process, call=call: process("run", **call))  # type: ignore[misc]


def check(own: ArmProcess, peers: ArmProcess, batch: int) -> None:
    """Raises unless all arms agree with the loop."""
    expected = np.array(peers("probs", arm="loop", batch=batch))
    for arm in ARMS:
        found = np.array((own if arm in OWN_ARMS else peers)("probs", arm=arm, batch=batch))
        worst = float(np.abs(found - expected).max())
        if worst > TOLERANCE:
            raise SystemExit(f"{arm} must agree with the loop within {TOLERANCE:g} for {batch} rows, got a difference of {worst:.2g}")


def summary(campaign: Campaign) -> Json:
    """Microseconds and how many times faster we are, by case and arm."""
    found: Json = {}
    for case in dict.fromkeys(turn.case for turn in campaign.turns):
        arms = {}
        for arm in ARMS:
            ratio = campaign.ratio(case, arm, "snapcycle", "microseconds")
            arms[arm] = {
                "microseconds": vars(spread(campaign.values(case, arm, "microseconds"))),
                "ours_faster": vars(ratio) if ratio and arm != "snapcycle" else None,
            }
        found[case] = arms
    return found


def show(campaign: Campaign, charts: Sequence[Path]) -> None:
    """Prints one table for each network and number of threads; the chart shows rows per second with one thread."""
    figures, panels = summary(campaign), []
    for head in dict.fromkeys(case.rpartition(" ")[0] for case in figures):
        tier, threads = head.split()
        print(f"\nTier {tier}, five members, {threads} thread(s): microseconds a call, and how many times faster ours is")
        rows = []
        batches = [int(case.rpartition(" ")[2]) for case in figures if case.startswith(f"{head} ")]
        for batch in batches:
            arms = figures[f"{head} {batch}"]
            cells = [shown_spread(spread(campaign.values(f"{head} {batch}", arm, "microseconds"))) for arm in ARMS]
            ratios = [arms[arm]["ours_faster"] for arm in ARMS]
            rows.append([str(batch), *(c + (f" {r['mean']:.2f}x" if r else "") for c, r in zip(cells, ratios, strict=True))])
        print(table(("rows", *ARMS), rows))
        if threads == "1":
            panels += [_panel(campaign, head, batch) for batch in batches]
    print(f"\n{campaign.noisy_turns()} of {len(campaign.turns)} turns had more than 5 % steal")
    for chart in charts if panels else ():
        draw(
            chart,
            "Prediction of five members, rows per second",
            "One thread; median and quartiles, from bytes to mean probabilities",
            panels,
        )


def _panel(campaign: Campaign, head: str, batch: int) -> Panel:
    names = {"A": "MLP", "B": "CNN", "C": "ResNet-8"}

    def rows_per_second(arm: str) -> Any:
        return spread([1e6 * batch / each for each in campaign.values(f"{head} {batch}", arm, "microseconds")])

    arms = [arm for arm in ARMS if arm in ("snapcycle", *PEER_ARMS)]
    return Panel(f"{names[head[0]]}, batch {batch}", tuple(Bar(arm, rows_per_second(arm), arm == "snapcycle") for arm in arms))


if __name__ == "__main__":
    main()
