"""Predictions over HTTP side by side: five members behind our service, LitServe, BentoML, MLServer, FastAPI, and a server without a model.

The servers share one core, the load has another; who is not measured is stopped. Each peer is calibrated first among the settings that its
documentation offers. 200 images show before that every server computes the same. ``make bench-serving`` runs it.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.compare import Campaign, add_campaign_options, campaign_paths, interleaved
from benchmarks.compare_process import OWN_PYTHON, ArmError, ArmProcess
from benchmarks.serving_own import own_service
from benchmarks.serving_payloads import PAYLOADS
from benchmarks.serving_report import OURS, show, summary
from benchmarks.serving_servers import CANDIDATES, Server, Settings, StartError, version_of

Json = dict[str, Any]

ROWS = 200
TOLERANCE = 1e-3
"""Of a probability, after it has been written as text and read again."""

CALIBRATED_CONNECTIONS = 32


def main() -> None:
    """Runs the campaign, or what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payloads", nargs="+", choices=PAYLOADS, default=list(PAYLOADS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--servers", nargs="+", choices=[OURS, *CANDIDATES], default=[OURS, *CANDIDATES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of load, each turn")
    add_campaign_options(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.connections = 1, 0.5, [32]
    paths = campaign_paths("serving", arguments)
    server_core, load_core = _two_cores()
    settings: Json = {"members": 5, "network": "mlp 784-256-256-10", "seconds": arguments.seconds, "cores": [server_core, load_core]}
    campaign = Campaign(paths.turns, "serving", settings, fresh=arguments.fresh or arguments.quick)
    with tempfile.TemporaryDirectory(prefix="snapcycle-serving-") as name, ExitStack() as stack:
        directory = Path(name)
        own = stack.enter_context(own_service(directory / "members", directory, server_core))
        load = stack.enter_context(ArmProcess(OWN_PYTHON, "serving_load", cores=[load_core], threads=1))
        load("read", directory=str(directory / "members"))
        peers = [server for server in arguments.servers if server != OURS]
        chosen = {server: calibrated(campaign, server, load, directory, server_core, quick=arguments.quick) for server in peers}
        campaign.turn("versions", "all", 0, lambda: {server: version_of(server) for server in peers})
        servers: dict[str, Server] = {}
        for server, of_peer in chosen.items():
            servers[server] = stack.enter_context(_started(of_peer, directory, server_core))
            servers[server].pause()
        targets = {server: (of.port, of.settings.target) for server, of in servers.items()}
        if OURS in arguments.servers:
            targets[OURS] = (own.port, own.ensemble_id)
        measure(campaign, load, servers, targets, arguments)
        measure_forward(campaign, server_core, arguments.repeats, quick=arguments.quick)
    campaign.write(summary(campaign))
    paths.publish()
    show(campaign, paths.charts)


def measure(
    campaign: Campaign, load: ArmProcess, servers: dict[str, Server], targets: dict[str, tuple[int, str]], arguments: argparse.Namespace
) -> None:
    """The probe and all turns."""
    for payload in arguments.payloads:
        able = [server for server in PAYLOADS[payload] if server in targets]
        able = [server for server in able if passes_probe(campaign, load, servers, targets, server, payload)]
        for connections in arguments.connections:
            for repeat, server in interleaved(able, arguments.repeats):
                port, target = targets[server]
                call: Json = {"server": server, "payload": payload, "port": port, "target": target, "connections": connections}
                call |= {"seconds": arguments.seconds, "warm_seconds": arguments.seconds / 5, "rows": ROWS}

                def turn(server: str = server, call: Json = call) -> Json:
                    with _running(servers.get(server)):
                        return load("run", **call)  # type: ignore[no-any-return]

                done = campaign.turn(f"{payload}, {connections} connections", server, repeat, turn)
                rate = done.figures["requests_per_second"]
                print(f"{payload}, {connections} connections, repeat {repeat}, {server}: {rate and round(rate)} req/s", flush=True)


def passes_probe(
    campaign: Campaign, load: ArmProcess, servers: dict[str, Server], targets: dict[str, tuple[int, str]], server: str, payload: str
) -> bool:
    """Whether the server takes the payload. Raises where it answers something else than the members say."""
    if server == "null server":
        return True
    port, target = targets[server]
    try:
        with _running(servers.get(server)):
            worst = load("probe", server=server, payload=payload, port=port, target=target, rows=ROWS)
    except ArmError as error:
        print(f"{server} takes no part in {payload}: {error}")
        return False
    if worst > TOLERANCE:
        raise SystemExit(f"{server} must agree with the members within {TOLERANCE:g} for {payload}, got a difference of {worst:.2g}")
    campaign.turn(f"probe, {payload}", server, 0, lambda: {"rows": ROWS, "largest_difference": worst})
    return True


def calibrated(campaign: Campaign, server: str, load: ArmProcess, directory: Path, core: int, *, quick: bool) -> Settings:
    """The peer's fastest settings at 32 connections with JSON floats; measured once in a campaign."""
    candidates = CANDIDATES[server]
    if quick or len(candidates) == 1:
        return candidates[0]

    def measure_all() -> Json:
        rates = []
        for candidate in candidates:
            try:
                with _started(candidate, directory, core) as running:
                    call: Json = {"server": server, "payload": "json floats", "port": running.port, "target": candidate.target}
                    load("probe", **call, rows=5)
                    found = load("run", **call, connections=CALIBRATED_CONNECTIONS, seconds=2.0, warm_seconds=1.0, rows=ROWS)
            except StartError as error:  # MLServer's parallel workers with its own newest uvloop
                print(f"{server}, {candidate.label}: {error}", flush=True)
                rates.append(0.0)
                continue
            rates.append(found["requests_per_second"] or 0.0)
            print(f"{server}, {candidate.label}: {rates[-1]:.0f} req/s", flush=True)
        best = max(range(len(candidates)), key=rates.__getitem__)
        labels = [candidate.label for candidate in candidates]
        return {"candidates": labels, "requests_per_second": rates, "best": labels[best]}

    best = campaign.turn("calibration", server, 0, measure_all).figures["best"]
    return next(candidate for candidate in candidates if candidate.label == best)


def measure_forward(campaign: Campaign, core: int, repeats: int, *, quick: bool) -> None:
    """Rows per second of the same network's forward pass without any server, on the servers' core."""
    with (
        tempfile.TemporaryDirectory(prefix="snapcycle-forward-") as directory,
        ArmProcess(OWN_PYTHON, "forward_own", cores=[core], threads=1) as own,
    ):
        own("prepare", tier="A", directory=directory)
        for repeat in range(repeats):

            def turn() -> Json:
                found = own("run", arm="snapcycle, with uncertainty", batch=32, seconds=0.05 if quick else 0.5)
                return {"rows_per_second": 32e6 / found["microseconds"]}

            campaign.turn("forward, 32 rows", "snapcycle", repeat, turn)


@contextmanager
def _started(settings: Settings, directory: Path, core: int) -> Iterator[Server]:
    with Server(settings, members=directory / "members", core=core, directory=directory) as server:
        server.wait_until_listening()
        yield server


@contextmanager
def _running(server: Server | None) -> Iterator[None]:
    """Lets a stopped peer run; our own service, which does nothing unasked, always runs."""
    if server is None:
        yield
        return
    server.go_on()
    try:
        yield
    finally:
        server.pause()


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(f"serving needs two cores, one for the servers and one for the load, got {len(cores)}")
    return cores[0], cores[1]


if __name__ == "__main__":
    main()
