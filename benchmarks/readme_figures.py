"""README's figures, made of the published results: what stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``.

``make readme-figures`` writes them; a test sees that they are those of the files, so no number in these parts is typed.
"""

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
PART = re.compile(r"(?<=<!-- figures: )(\w+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)

PAYLOADS = {
    "json floats": "JSON floats",
    "json ints": "JSON integers",
    "bytes": "raw bytes (LitServe, BentoML, MLServer: base64)",
    "oip binary": "`/v2` binary tensors",
}
TRAINING_ARMS = {
    "torchensemble, pictures": "torchensemble, pictures as in its documentation",
    "torchensemble": "torchensemble, rows prepared as tensors",
    "torchensemble, batches": "the same, whole batches, freed memory kept",
    "textbook loop": "textbook loop",
    "Lightning": "Lightning (one network)",
    "fastai": "fastai (one network)",
    "bare loop": "bare tuned loop",
}
TIERS = {"A": "A: MLP 784-256-256-10", "B": "B: CNN 16-32-64", "C": "C: ResNet-8"}


def main() -> None:
    """Writes them into README."""
    README.write_text(with_figures(README.read_text()))


def with_figures(text: str) -> str:
    """The text with its parts made anew."""
    return PART.sub(lambda match: f"{match[1]}{match[2]}{PARTS[match[1]]()}\n", text)


def _chaos() -> str:
    short, long = _read("chaos"), _read("chaos_long")
    targets = ("worker", "server", "trainer", "api", "leader")
    rows: list[tuple[str, Callable[[Json], str]]] = [
        (
            "killed: workers, servers, trainers, APIs, leading reconcilers",
            lambda one: ", ".join(str(one["kills_by_target"][name]) for name in targets),
        ),
        ("kills that interrupted a running job", lambda one: str(one["kills_of_a_running_job"])),
        ("jobs, of these interrupted by a kill", lambda one: f"{one['jobs']}, {one['jobs_interrupted']}"),
        (
            "paused and resumed; extended; cancelled; made to fail",
            lambda one: "; ".join(
                str(count)
                for count in (
                    one["jobs_that_rested"],
                    one["jobs_by_role"]["extended_later"] + one["jobs_by_role"]["extended_running"],
                    one["jobs_by_end"]["cancelled"],
                    one["jobs_by_end"]["failed"],
                )
            ),
        ),
        ("lost jobs", lambda one: str(one["lost"])),
        ("snapshots taken twice", lambda one: str(one["duplicates"])),
        ("succeeded jobs that are the undisturbed run's, bit by bit", lambda one: one["bit_identical"]),
        ("a kill loses or doubles something (95 %, 3/n)", lambda one: f"below {300 / one['kills']:.2g} %"),
        ("the same for a kill that interrupts a running job", lambda one: f"below {300 / one['kills_of_a_running_job']:.2g} %"),
        (
            "recovery, median, 99th percentile and longest",
            lambda one: ", ".join(f"{one['recovery_seconds'][name]:.2g} s" for name in ("p50", "p99", "max")),
        ),
        ("training repeated after a kill", lambda one: f"at most {one['lost_work_seconds']['max']:.2f} s"),
    ]
    head = [""] + [f"{one['kills']:,} kills, {one['chaos_seconds'] / 60:.0f} minutes" for one in (short, long)]
    return _table(head, [(label, figure(short), figure(long)) for label, figure in rows])


def _load() -> str:
    found = _read("load")
    submit, listing = found["requests"]["submit"], found["requests"]["list"]
    refused = sum(count for status, count in found["statuses"].items() if status.split()[1] >= "300")
    shares = ", ".join(str(count) for count in found["claims"].values())
    return _lines(
        f"Submitting took {submit['p50']:.1f} ms (p99 {submit['p99']:.1f} ms),",
        f"a list {listing['p50']:.1f} ms (p99 {listing['p99']:.1f} ms),",
        f"{refused or 'no'} requests were refused, the API's memory grew by {found['growth_bytes'] / 1e6:.1f} MB,",
        f"and the next claims were {shares} of the three tenants ([figures](benchmarks/results/load.json)).",
    )


def _fuzz() -> str:
    long, short = _read("fuzz_million"), _read("fuzz")
    own = short["requests"] - short["requests_of_schemathesis"]
    return _lines(
        f"{long['requests']:,} requests in {long['seconds'] / 60:.0f} minutes: {long['server_errors'] or 'no'} 5xx,",
        f"no answer slower than {long['slowest_seconds']:.2f} s (limit 5 s),",
        f"the API's memory grew by {long['rss_growth_bytes'] / 1e6:.1f} MB after the first requests had warmed it up (limit 50),",
        f"and it worked afterwards. {long['statuses']['0']:,} got no answer: they were no HTTP, or ended in the middle",
        "([figures](benchmarks/results/fuzz_million.json)).",
        f"In the short form, `make fuzz SEED={short['seed']}`, schemathesis sends {short['requests_of_schemathesis']:,} requests",
        f"from the OpenAPI document beside {own:,} of our own: {short['server_errors'] or 'no'} 5xx, {short['slowest_seconds']:.2f} s,",
        f"{short['rss_growth_bytes'] / 1e6:.1f} MB ([figures](benchmarks/results/fuzz.json)).",
    )


def _faults() -> str:
    found = _read("faults")
    skipped = len(found.get("skipped", ()))
    return f"[{found['faults'] - found['violations']} of {found['faults']}](benchmarks/results/faults.json) left every invariant whole" + (
        f"; {skipped} could not be run on this machine, and are named there." if skipped else "."
    )


def _serving() -> str:
    summary = _read("serving")["summary"]
    rows = []
    for payload, label in PAYLOADS.items():
        case = summary[f"{payload}, 32 connections"]
        servers, best = case["servers"], case["best_peer"]
        rates = [_rate(servers.get(name)) for name in ("MLServer", "FastAPI", "LitServe", "BentoML")]
        share = f", {servers[best]['our_p99_share']['mean']:.2f} of {best}'s" if best else ""
        rows.append(
            (
                label,
                f"**{_rate(servers['snapcycle'])}**",
                *rates,
                _ratio(servers[best]["ours_faster"]) if best else "-",
                f"{servers['snapcycle']['p99']:.1f} ms{share}",
                f"{100 * case['limit']['our_share']:.0f} %",
            )
        )
    head = ("payload", "snapcycle", "MLServer", "FastAPI by hand", "LitServe", "BentoML")
    shown = _table((*head, "times the best of LitServe, BentoML, MLServer", "p99", "of one core's limit"), rows)
    return f"{shown}\n\n{_serving_elsewhere(summary)}"


def _serving_elsewhere(summary: Json) -> str:
    """One connection, and 128."""
    alone = {payload: summary[f"{payload}, 1 connections"]["servers"] for payload in ("json floats", "json ints", "bytes")}

    def waits(name: str) -> str:
        return ", ".join(f"{servers[name]['p50']:.2f}" for servers in alone.values())

    many = summary["bytes, 128 connections"]
    bytes_32 = summary["bytes, 32 connections"]
    limit, best = bytes_32["limit"]["limit"], bytes_32["servers"][bytes_32["best_peer"]]["requests_per_second"]["median"]
    share = [summary[f"{payload}, 32 connections"]["servers"]["FastAPI"]["our_p99_share"]["mean"] for payload in alone]
    return _lines(
        f"A client alone waits {waits('snapcycle')} ms (floats, integers, bytes; FastAPI by hand {waits('FastAPI')};",
        f"BentoML {waits('BentoML')}; MLServer {waits('MLServer')}).",
        f"At 128 connections it is {_rate(many['servers']['snapcycle'])} a second with bytes,",
        f"{100 * many['limit']['our_share']:.0f} % of the limit.",
        f"With bytes the limit, {limit:,.0f} a second, is {limit / best:.1f} times the best of the three.",
        f"Our p99 at 32 connections is {', '.join(f'{each:.2f}' for each in share)} of FastAPI's by hand.",
    )


def _training() -> str:
    summary = _read("training")["summary"]
    tiers = [name for name in TIERS if name in summary]
    head = [""]
    own = ["**snapcycle**"]
    for name in tiers:
        head += [f"{TIERS[name]}, images/s and ours over it", f"ours sooner at {100 * summary[name]['target_accuracy']:.1f} %"]
        own += [f"**{summary[name]['arms']['snapcycle']['images_per_second']['median']:,.0f}**", ""]
    rows = [own]
    for arm, label in TRAINING_ARMS.items():
        row = [label]
        for name in tiers:
            found = summary[name]["arms"].get(arm)
            if found is None:
                row += ["-", "-"]
                continue
            row.append(f"{found['images_per_second']['median']:,.0f}, {_ratio(found['ours_faster'])}")
            sooner = found["ours_sooner"]
            row.append(f"{_ratio(sooner)}{_pairs(sooner, found['repeats'])}" if sooner else "-")
        rows.append(row)
    lines = [_table(head, rows), ""]
    for name in tiers:
        arms, times = summary[name]["arms"], summary[name]["whole_job_takes_times"]
        repeats = sorted({arm["repeats"] for arm in arms.values()})
        accuracies = f"accuracy {_percent(arms, 'snapcycle')} (torchensemble {_percent(arms, 'torchensemble')}"
        accuracies += f", Lightning's last network {_percent(arms, 'Lightning')})" if "Lightning" in arms else ")"
        job = ", ".join(
            f"{_ratio(ratio)} times {'`clr.train`' if other == 'snapcycle' else f'the {other}'}" for other, ratio in times.items()
        )
        lines.append(f"- {name}, {' or '.join(map(str, repeats))} repeats: {accuracies}; the whole job takes {job}.")
    return "\n".join(lines)


def _percent(arms: Json, arm: str) -> str:
    return f"{100 * arms[arm]['accuracy']:.2f} %"


def _pairs(ratio: Json, repeats: int) -> str:
    """How many repeats there was something to compare in, where that is not all."""
    return f" [{ratio['pairs']} of {repeats}]" if ratio["pairs"] < repeats else ""


def _forward() -> str:
    summary = _read("forward")["summary"]
    rows = []
    for case in (case for case in summary if case.startswith("A 1 ")):
        arms = summary[case]
        row = [case.rpartition(" ")[2], _microseconds(arms["snapcycle"])]
        row += [f"{_microseconds(arms[arm])}, {_ratio(arms[arm]['ours_faster'])}" for arm in ("loop", "vmap", "torchensemble")]
        rows.append([*row, _microseconds(arms["snapcycle, with uncertainty"])])
    head = (
        "rows",
        "snapcycle",
        "loop over the networks, times",
        "torch's vmap, times",
        "torchensemble, times",
        "snapcycle, with uncertainty",
    )
    return _table(head, rows)


def _dispatch() -> str:
    found = _read("dispatch")
    jobs = f"{found['jobs']} jobs on an idle service"
    return f"{jobs}: median {found['median']:.1f} ms, maximum {found['maximum']:.1f} ms (goal {found['goal_for_median']:.0f}, aim 20)."


PARTS: dict[str, Callable[[], str]] = {
    "chaos": _chaos,
    "load": _load,
    "fuzz": _fuzz,
    "faults": _faults,
    "serving": _serving,
    "training": _training,
    "forward": _forward,
    "dispatch": _dispatch,
}


def _read(name: str) -> Json:
    found: Json = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), 140, break_long_words=False, break_on_hyphens=False)


def _rate(found: Json | None) -> str:
    return f"{found['requests_per_second']['median']:,.0f}" if found else "-"


def _microseconds(found: Json) -> str:
    return f"{found['microseconds']['median']:,.0f}"


def _ratio(found: Json) -> str:
    return f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


if __name__ == "__main__":
    main()
