"""What is published of serving: requests per second and latencies, and how near we are to the limit of a core."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import Bar, Panel, draw, shown, shown_spread, table
from benchmarks.compare import Campaign, Spread, spread

Json = dict[str, Any]

OURS, NULL, FORWARD = "snapcycle", "null server", "forward, 32 rows"
PEERS = ("LitServe", "BentoML", "MLServer")
"""Whose best counts; FastAPI, written by hand, is shown beside them."""


def summary(campaign: Campaign) -> Json:
    """The published figures of each payload and number of connections."""
    return {case: _case(campaign, case) for case in _cases(campaign)}


def _cases(campaign: Campaign) -> list[str]:
    return [case for case in dict.fromkeys(turn.case for turn in campaign.turns) if case.endswith("connections")]


def _case(campaign: Campaign, case: str) -> Json:
    servers: Json = {}
    for server in dict.fromkeys(turn.arm for turn in campaign.turns if turn.case == case):
        rates = campaign.values(case, server, "requests_per_second")
        ratio, latency = (campaign.ratio(case, OURS, server, figure) for figure in ("requests_per_second", "p99"))
        servers[server] = {
            "requests_per_second": vars(spread(rates)) if rates else None,
            "p50": spread(campaign.values(case, server, "p50")).median if rates else None,
            "p99": spread(campaign.values(case, server, "p99")).median if rates else None,
            "refused": sum(turn.figures["refused"] for turn in campaign.turns if (turn.case, turn.arm) == (case, server)),
            "ours_faster": vars(ratio) if ratio and server != OURS else None,
            "our_p99_share": vars(latency) if latency and server != OURS else None,
        }
    best = max((peer for peer in PEERS if peer in servers), key=lambda peer: _median(servers[peer]), default=None)
    return {"servers": servers, "best_peer": best, "limit": _limit(campaign, servers)}


def _limit(campaign: Campaign, servers: Json) -> Json | None:
    """One core can do no more than 1 / (1/forward + 1/null server) requests of one row a second."""
    forward = campaign.values(FORWARD, OURS, "rows_per_second")
    if not forward or NULL not in servers or OURS not in servers:
        return None
    rows, null = spread(forward).median, _median(servers[NULL])
    if not null:
        return None
    limit = 1 / (1 / rows + 1 / null)
    return {"forward": rows, "null_server": null, "limit": limit, "our_share": _median(servers[OURS]) / limit}


def _median(server: Json) -> float:
    found = server["requests_per_second"]
    return float(found["median"]) if found else 0.0


def show(campaign: Campaign, charts: Sequence[Path]) -> None:
    """Prints the tables; the charts show requests per second at 32 connections."""
    figures = summary(campaign)
    panels = []
    for turn in campaign.turns:
        if turn.case == "calibration":
            tried = zip(turn.figures["candidates"], turn.figures["requests_per_second"], strict=True)
            print(f"{turn.arm}: {', '.join(f'{label} {rate:.0f}' for label, rate in tried)}; best: {turn.figures['best']}")
    for case, found in figures.items():
        servers = found["servers"]
        order = sorted(servers, key=lambda server: -_median(servers[server]))
        print(f"\n{case}; best peer: {found['best_peer']}")
        print(
            table(
                ("server", "req/s", "ours is faster by", "p50 ms", "p99 ms", "our p99 is", "refused"), [_row(n, servers[n]) for n in order]
            )
        )
        if found["limit"]:
            limit = found["limit"]
            print(
                f"limit of one core: 1 / (1/{limit['forward']:,.0f} + 1/{limit['null_server']:,.0f}) = {limit['limit']:,.0f} req/s, "
                f"of which we reach {100 * limit['our_share']:.0f} %"
            )
        if case.endswith(", 32 connections"):
            bars = [
                Bar(name, spread(campaign.values(case, name, "requests_per_second")), name == OURS)
                for name in order
                if _median(servers[name])
            ]
            panels.append(Panel(case, tuple(bars)))
    print(f"\n{campaign.noisy_turns()} of {len(campaign.turns)} turns had more than 5 % steal")
    for chart in charts if panels else ():
        subtitle = "Five MLPs, one image a request, servers on one core, load on another; median and quartiles"
        draw(chart, "Predictions over HTTP, requests per second", subtitle, panels)


def _row(server: str, figures: Json) -> tuple[str, ...]:
    rates = figures["requests_per_second"]
    return (
        server,
        shown_spread(Spread(**rates) if rates else None),
        _ratio(figures["ours_faster"]),
        "-" if figures["p50"] is None else shown(figures["p50"]),
        "-" if figures["p99"] is None else shown(figures["p99"]),
        _ratio(figures["our_p99_share"]),
        str(figures["refused"]),
    )


def _ratio(found: Json | None) -> str:
    return f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if found else "-"
