"""The arithmetic behind the published comparisons, and that all arms of a comparison compute the same network."""

import json
import math
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.charts import Bar, Panel, draw, shown, table
from benchmarks.compare import Campaign, Spread, Ticks, interleaved, paired_ratio, spread
from benchmarks.peers.networks import build
from benchmarks.serving_load import is_complete
from benchmarks.training_report import images_per_second, seconds_to, summary
from benchmarks.training_tiers_data import QUICK, TIERS
from clr.models import build_model


def test_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    ratio = paired_ratio([2.0, 8.0, 3.0], [1.0, 1.0, 6.0])
    assert ratio.mean == pytest.approx((2 * 8 * 0.5) ** (1 / 3))
    assert ratio.low == pytest.approx(0.5)
    assert ratio.high == pytest.approx(8.0)
    assert ratio.pairs == 3


def test_ratio_of_the_inverse_is_the_inverse() -> None:
    ours, theirs = [3.1, 2.9, 3.4, 3.0, 2.7], [1.0, 1.1, 0.9, 1.2, 1.0]
    forward, backward = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert forward.mean == pytest.approx(1 / backward.mean)
    assert forward.low < forward.mean < forward.high


def test_interval_has_the_width_that_the_normal_distribution_expects() -> None:
    logs = [math.sin(7.0 * k) for k in range(200)]
    ratio = paired_ratio([math.exp(log) for log in logs], [1.0] * 200)
    expected = 2 * 1.96 * statistics.stdev(logs) / math.sqrt(200)
    assert math.log(ratio.high / ratio.low) == pytest.approx(expected, rel=0.05)


def test_pairs_must_be_complete() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


def test_spread_has_the_quartiles_of_the_values() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_turns_go_back_and_forth() -> None:
    assert list(interleaved(["a", "b"], 3)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_steal_is_a_share_of_the_time_between() -> None:
    assert Ticks(1000, 10).steal_share_until(Ticks(1200, 30)) == 0.1
    assert Ticks(5, 0).steal_share_until(Ticks(5, 0)) == 0.0


def test_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Campaign(tmp_path / "raw.json", "speed", {"rows": 1}, fresh=False)
    first.turn("A", "ours", 0, lambda: {"rate": 6.0})
    first.turn("A", "theirs", 0, lambda: {"rate": 2.0})
    first.turn("A", "theirs", 1, lambda: {"rate": None})

    again = Campaign(tmp_path / "raw.json", "speed", {"rows": 1}, fresh=False)
    assert again.turn("A", "ours", 0, lambda: {"rate": 99.0}).figures == {"rate": 6.0}
    again.turn("A", "ours", 1, lambda: {"rate": 5.0})
    ratio = again.ratio("A", "ours", "theirs", "rate")
    assert ratio is not None
    assert ratio.mean == pytest.approx(3.0)
    assert ratio.pairs == 1
    assert again.values("A", "ours", "rate") == [6.0, 5.0]
    assert again.ratio("A", "ours", "nobody", "rate") is None
    again.write({"published": 3.0})
    assert json.loads((tmp_path / "raw.json").read_text())["summary"] == {"published": 3.0}


def test_campaign_does_not_mix_settings(tmp_path: Path) -> None:
    Campaign(tmp_path / "raw.json", "speed", {"rows": 1}, fresh=False).turn("A", "ours", 0, dict)
    with pytest.raises(SystemExit, match="other settings"):
        Campaign(tmp_path / "raw.json", "speed", {"rows": 2}, fresh=False)
    assert Campaign(tmp_path / "raw.json", "speed", {"rows": 2}, fresh=True).turns == []


def test_throughput_leaves_the_first_epoch_out() -> None:
    assert images_per_second({"epoch_ends": [10.0, 12.0, 14.0]}, TIERS["A"]) == 27_000 * 2 / 4.0
    assert images_per_second({"epoch_ends": [10.0]}, TIERS["A"]) is None


def test_time_to_an_accuracy_ends_with_the_first_ensemble_that_has_it() -> None:
    figures = {"snapshot_seconds": [3.0, 6.0, 9.0], "accuracies": [0.7, 0.9, 0.8]}
    assert seconds_to(figures, 0.75) == 6.0
    assert seconds_to(figures, 0.95) is None


def test_summary_compares_runs_of_the_same_seed(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "raw.json", "training", {}, fresh=True)

    def run(arm: str, repeat: int, epoch_seconds: float, accuracy: float) -> None:
        ends = [1.0, 1.0 + epoch_seconds]
        figures = {"seconds": ends[-1], "epoch_ends": ends, "snapshot_seconds": ends, "accuracies": [0.5, accuracy], "nlls": [1.0, 0.5]}
        campaign.turn("A", arm, repeat, lambda: figures)

    for repeat, drift in enumerate((1.0, 2.0)):
        run("snapcycle", repeat, 1.0 * drift, 0.9)
        run("textbook loop", repeat, 4.0 * drift, 0.9005)
    tier = summary(campaign, QUICK)["A"]
    assert tier["target_accuracy"] == pytest.approx(0.898)
    assert tier["arms"]["textbook loop"]["ours_faster"]["mean"] == pytest.approx(4.0)
    assert tier["arms"]["textbook loop"]["ours_sooner"]["mean"] == pytest.approx(math.sqrt(5 / 2 * 9 / 3))
    assert tier["arms"]["snapcycle"]["reached_target"] == 2


@pytest.mark.parametrize("name", sorted(TIERS))
def test_peers_have_the_same_network(name: str) -> None:
    tier = TIERS[name]
    own = build_model(tier.config(0).model, (28, 28), 10).eval()
    theirs = build(tier.network)
    theirs.load_state_dict(own.state_dict())
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(images), own(images))


@pytest.mark.parametrize(
    ("data", "complete"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:2\r\nserver: x\r\n\r\no", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", False),
    ],
)
def test_load_knows_when_an_answer_is_complete(data: bytes, *, complete: bool) -> None:
    assert is_complete(data) is complete


def test_chart_is_a_picture_with_every_bar(tmp_path: Path) -> None:
    bars = (Bar("ours & best", Spread(200.0, 190.0, 210.0), is_ours=True), Bar("<theirs>", Spread(50.0, 45.0, 55.0)))
    draw(tmp_path / "chart.svg", "Speed", "per second", [Panel("case", bars)])
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["Speed", "per second", "case", "ours & best", "200", "<theirs>", "50"]
    widths = [float(element.attrib["width"]) for element in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.2)


def test_table_reads_as_markdown() -> None:
    assert table(("arm", "rate"), [("ours", shown(12345.6))]) == "| arm  | rate   |\n| ---- | ------ |\n| ours | 12,346 |"
