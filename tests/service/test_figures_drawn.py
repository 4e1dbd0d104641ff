"""Figures from documents: what is drawn is what the documents say, and Plotly takes every one of them."""

import json
import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import plotly.graph_objects as go
import pytest

from clr.range_test import range_test
from clr.studies import plan_study
from clr.study_config import StudyConfig
from clr.study_report import study_report
from service.figure_style import LINE_LENGTH, PALETTE, shades, wrapped
from service.figures import FIGURES, FigureUnavailable, JobDocuments, draw, figures_of
from tests.clr.study_runs import made_up_run
from tests.service.figure_jobs import landscape, members, range_answer, study, training
from tests.worker.training_jobs import tiny_dataset, tiny_range_test
from worker.range_test_job import range_test_document

Json = dict[str, Any]

FINISHED = members() | {"landscape": landscape()}


def of_kind(kind: str, result: Json | None) -> JobDocuments:
    return training(kind=kind, result=result)


def drawable() -> dict[str, tuple[str, JobDocuments]]:
    """Every figure with a job that has it; a figure that is missing here fails its own test."""
    return {
        "schedule": ("schedule", of_kind("train", FINISHED)),
        "ensemble_size": ("ensemble_size", of_kind("train", FINISHED)),
        "interpolation": ("interpolation", of_kind("train", FINISHED)),
        "correlation": ("correlation", of_kind("train", FINISHED)),
        "range_test": ("range_test", of_kind("range_test", range_answer())),
        "study": ("study", of_kind("study", study())),
        "loss_evolution": ("loss_evolution", of_kind("study", study())),
    }


def traces(figure: Json, name: str) -> list[Json]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


def trace(figure: Json, name: str, index: int = 0) -> Json:
    return traces(figure, name)[index]


@pytest.mark.parametrize("name", FIGURES)
def test_plotly_takes_every_figure_and_it_is_json(name: str) -> None:
    """``go.Figure`` refuses attributes that Plotly does not know."""
    drawn = draw(*drawable()[name])
    assert json.loads(json.dumps(drawn, allow_nan=False)) == drawn
    assert len(go.Figure(drawn).data) == len(drawn["data"]) > 0
    for value in _axes(drawn):
        assert "title" in value


@pytest.mark.parametrize("name", [name for name, kind in FIGURES.items() if kind.compares])
def test_two_jobs_are_shown_together(name: str) -> None:
    one, other = of_kind("train", FINISHED), training(name="control", result=FINISHED)
    drawn = draw(name, one, other)
    go.Figure(drawn)
    text = json.dumps(drawn)
    assert "first" in text
    assert "control" in text
    assert len(drawn["data"]) == 2 * len(draw(name, one)["data"])


def test_schedule_marks_each_snapshot_and_tells_minima_apart() -> None:
    drawn = draw("schedule", training())
    on_loss, on_rate = traces(drawn, "snapshot (hollow: not at a minimum of the rate)")
    assert (on_rate["x"], on_rate["y"]) == ([2, 4], [0.1, 0.1])
    assert (on_loss["x"], on_loss["y"]) == ([2, 4], [0.5, 0.4])
    assert on_rate["marker"]["symbol"] == ["circle", "circle-open"]
    assert "test error 20.00 %" in on_loss["customdata"][0]
    assert [shape["x0"] for shape in drawn["layout"]["shapes"]] == [2, 4]


def test_the_loss_is_smoothed_inside_its_cycle_only() -> None:
    """160 rows are averaged with two to either side; a loss that was no finite number leaves a gap, and no hole beside it."""
    rows = 160
    columns = {"step": list(range(1, rows + 1)), "epoch": [0.0] * rows, "cycle": [0] * 80 + [1] * 80, "learning_rate": [0.1] * rows}
    losses: list[float | None] = [*([1.0] * 80), *([3.0] * 80)]
    losses[10] = None
    job = replace(training(), metrics={"columns": columns | {"train_loss": losses}}, snapshots=[])
    smoothed = trace(draw("schedule", job), "training loss, smoothed")["y"]
    assert smoothed == [None if index == 10 else 1.0 if index < 80 else 3.0 for index in range(rows)]


def test_a_job_without_a_step_has_no_schedule_yet() -> None:
    columns: Json = {key: [] for key in ("step", "epoch", "cycle", "learning_rate", "train_loss")}
    with pytest.raises(FigureUnavailable, match="has not taken a step yet"):
        draw("schedule", replace(training(), metrics={"columns": columns}))


def test_ensemble_size_shows_error_in_per_cent_and_likelihood() -> None:
    drawn = draw("ensemble_size", training(result=FINISHED))
    error, nll = traces(drawn, "mean of the last m")
    assert error["x"] == nll["x"] == [1, 2]
    assert error["y"] == pytest.approx([10.0, 12.5])
    assert nll["y"] == [0.5, 0.55]
    assert trace(drawn, "mean of the first m")["y"] == pytest.approx([20.0, 12.5])
    assert trace(drawn, "m-th snapshot alone")["y"] == pytest.approx([20.0, 10.0])


def test_ensemble_size_grows_while_the_job_runs() -> None:
    running = training(status="running")
    drawn = draw("ensemble_size", running)
    assert traces(drawn, "mean of the last m") == []
    assert trace(drawn, "mean of the first m")["x"] == [1, 2]
    with pytest.raises(FigureUnavailable, match="has no snapshot yet"):
        draw("ensemble_size", replace(running, snapshots=[]))


def test_the_ensemble_that_was_chosen_on_validation_is_ringed() -> None:
    job = training(result=FINISHED)
    assert traces(draw("ensemble_size", job), "chosen on validation") == []
    chosen = job.snapshots[-1]["ensemble"] | {"members": 1, "reason": "one is best: <validation>"}
    job.snapshots[-1] = job.snapshots[-1] | {"ensemble": chosen}
    error, nll = traces(draw("ensemble_size", job), "chosen on validation")
    assert (error["x"], error["y"], nll["y"]) == ([1], pytest.approx([10.0]), [0.5])
    assert "one is best: &lt;validation&gt;" in error["hovertemplate"]


def test_a_weak_early_snapshot_does_not_flatten_the_curves() -> None:
    job = training(result=FINISHED)
    assert "range" not in draw("ensemble_size", job)["layout"]["yaxis"]  # 20 % alone, 12.5 % at worst on average
    weak = job.snapshots[0] | {"metrics": {"test": {"accuracy": 0.1, "nll": 0.7}}}
    drawn = draw("ensemble_size", replace(job, snapshots=[weak, job.snapshots[1]]))
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low < 10.0 < 20.0 < high < 25.0
    assert "range" not in drawn["layout"]["yaxis2"]
    assert trace(drawn, "m-th snapshot alone")["y"][0] == pytest.approx(90.0)
    assert "weak early snapshots are" in drawn["layout"]["title"]["text"]


def test_members_left_out_do_not_count_as_the_first_m() -> None:
    job = training(status="running")
    job.snapshots[-1] = job.snapshots[-1] | {"ensemble": job.snapshots[-1]["ensemble"] | {"members": 1}}
    assert trace(draw("ensemble_size", job), "mean of the first m")["x"] == [1]


def test_changes_of_plan_are_marked_with_their_reason() -> None:
    drawn = draw("schedule", training(result={"plan": [{"step": 2, "reason": "restarts cost more than averaging gives back"}]}))
    mark = trace(drawn, "change of plan")
    assert (mark["x"], mark["y"], mark["yaxis"]) == ([2], [0.1], "y2")
    assert mark["customdata"] == ["restarts cost more than averaging gives back"]


def test_a_classification_is_not_compared_with_a_regression() -> None:
    rows = [{"metrics": {"test": {"rmse": 2.0, "mae": 1.0}}, "ensemble": {"members": 1, "test": {"rmse": 2.0, "mae": 1.0}}}]
    with pytest.raises(FigureUnavailable, match="measured differently"):
        draw("ensemble_size", training(), replace(training(), snapshots=rows))
    assert trace(draw("ensemble_size", replace(training(), snapshots=rows)), "m-th snapshot alone", 1)["y"] == [1.0]


def test_interpolation_shows_the_line_and_its_barrier() -> None:
    drawn = draw("interpolation", of_kind("evaluate", {"landscape": landscape()}))
    (line,) = drawn["data"]
    assert (line["name"], line["x"]) == ("1 → 2", [0.0, 0.5, 1.0])
    assert line["y"] == pytest.approx([0.4, 0.65, 0.3])
    assert "barrier 0.3, two basins" in line["hovertemplate"]
    assert "2 snapshots in 2 basins" in drawn["layout"]["annotations"][0]["text"]
    assert "type" not in drawn["layout"]["yaxis"]


def test_a_barrier_that_dwarfs_the_rest_is_shown_on_a_logarithmic_axis() -> None:
    layout = draw("interpolation", training(result={"landscape": landscape(barrier=100.0)}))["layout"]
    assert layout["yaxis"]["type"] == "log"
    low, high = layout["yaxis"]["range"]
    assert low < math.log10(0.3)
    assert high > math.log10(100.35)


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    (line,) = draw("interpolation", training(result={"landscape": landscape(barrier=None)}))["data"]
    assert line["y"] == [0.4, None, 0.3]
    assert "barrier not finite" in line["hovertemplate"]


@pytest.mark.parametrize(
    ("num_snapshots", "names", "says_so"), [(3, ["1 → 2", "1 → 3", "2 → 3"], False), (6, [f"{n} → 6" for n in range(1, 6)], True)]
)
def test_all_lines_are_shown_or_of_many_those_to_the_last_snapshot(num_snapshots: int, names: list[str], says_so: bool) -> None:
    report = landscape()
    line = report["basins"]["lines"][0]
    report["snapshots"] = [{}] * num_snapshots
    pairs = combinations(range(num_snapshots), 2)
    report["basins"]["lines"] = [line | {"first": first, "second": second} for first, second in pairs]
    shown = draw("interpolation", training(result={"landscape": report}))
    assert [each["name"] for each in shown["data"]] == names
    assert ("to the last snapshot" in shown["layout"]["title"]["text"]) == says_so


def test_correlation_has_the_matrix_and_the_disagreement() -> None:
    for job in (training(result=members()), of_kind("evaluate", {"landscape": landscape()})):
        (matrix,) = draw("correlation", job)["data"]
        assert matrix["z"] == [[1.0, 0.75], [0.75, 1.0]]
        assert matrix["customdata"] == [[0.0, 10.0], [10.0, 0.0]]
        assert matrix["x"] == [1, 2]
    assert draw("correlation", training(result=members()))["layout"]["coloraxis"]["cmin"] == 0.7


def test_what_is_missing_is_said_with_its_remedy() -> None:
    with pytest.raises(FigureUnavailable, match=r'has no landscape: submit \{"kind": "evaluate", "job_id": "job_01"\}'):
        draw("interpolation", training(result=members()))
    with pytest.raises(FigureUnavailable, match="job_01 is running: this comes with its end"):
        draw("interpolation", training(status="running"))
    with pytest.raises(FigureUnavailable, match='"max_lr": "auto" measures it'):
        draw("range_test", training(result=members()))
    with pytest.raises(FigureUnavailable, match="job_01 is a train job: study belongs to jobs of kind study"):
        draw("study", training(result=members()))
    with pytest.raises(FigureUnavailable, match="leave out against"):
        draw("study", of_kind("study", study()), of_kind("study", study()))


def test_range_test_shows_every_loss_the_range_and_the_suggestions() -> None:
    drawn = draw("range_test", of_kind("range_test", range_answer()))
    raw, smoothed = traces(drawn, "repeat 1 (seed 7)")
    assert raw["y"] == range_answer()["sweeps"][0]["loss"]
    assert len(smoothed["x"]) == 29
    assert smoothed["y"][0] == pytest.approx(2.0, abs=0.2)
    assert "ended at a loss that is no finite number" in raw["hovertemplate"]
    band, *suggestions = drawn["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == (0.001, 0.02)
    assert [line["x0"] for line in suggestions] == [0.005, 0.007, 0.01]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == [
        "min_lr 0.001 to max_lr 0.02",
        "minimum/10: 0.005",
        "valley: 0.007",
        "steepest: 0.01",
    ]
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low < 0.5 < 2.0 < high < 4.0


def test_a_refused_range_test_shows_its_curve_without_a_range() -> None:
    answer = range_answer(suggestions={}, min_lr=None, max_lr=None, reason="no usable descent")
    drawn = draw("range_test", of_kind("range_test", answer))
    assert drawn["layout"]["shapes"] == drawn["layout"]["annotations"] == []
    assert "no usable descent" in drawn["layout"]["title"]["text"]


def test_a_training_that_measured_its_rate_shows_how() -> None:
    drawn = draw("range_test", training(result={"learning_rate": {"max_lr": 0.02, "epochs": 1.5, "result": range_answer()}}))
    assert len(traces(drawn, "repeat 1 (seed 7)")) == 2
    with pytest.raises(FigureUnavailable, match="has its rate from job_02: that job has the figure"):
        draw("range_test", training(result={"learning_rate": {"max_lr": 0.02, "from_job": "job_02"}}))


def test_study_shows_means_with_their_intervals_and_the_seeds() -> None:
    drawn = draw("study", of_kind("study", study()))
    seeds, mean = traces(drawn, "snapshot ensemble")[:2]
    assert seeds["x"] == [20.0, 40.0]
    assert mean["x"] == pytest.approx([30.0])
    assert mean["error_x"]["array"] == pytest.approx([10.0])
    assert mean["error_x"]["arrayminus"] == pytest.approx([10.0])
    assert len(traces(drawn, "step")) == 2  # no likelihood, no second panel
    assert "error_x" not in traces(drawn, "step")[1]  # one seed has no interval
    assert drawn["layout"]["yaxis"]["categoryarray"] == ["no cycle", "step", "snapshot ensemble"]
    assert "20 epochs for each arm (no cycle: 40), 2 seeds" in drawn["layout"]["title"]["text"]
    assert (drawn["layout"]["xaxis"]["minallowed"], drawn["layout"]["xaxis"]["maxallowed"]) == (0, 100)


def test_loss_evolution_draws_a_run_once_for_all_its_arms() -> None:
    drawn = draw("loss_evolution", of_kind("study", study()))
    ensemble, band, shared = drawn["data"]
    assert (ensemble["name"], ensemble["y"]) == ("snapshot ensemble", [3.0, None])
    assert (shared["name"], shared["x"], shared["y"]) == ("step, no cycle", [0.5, 1.0], [2.0, 1.0])
    assert band["y"] == pytest.approx([2.2, 1.1, 0.9, 1.8])


def test_what_the_library_answers_can_be_drawn() -> None:
    """The documents by hand above have the form of the real ones."""
    config = StudyConfig.model_validate({"seeds": [0, 1], "cycles": 2, "arms": ["cosine", "no_cycle_cosine", "independent"]})
    runs = plan_study(config).runs
    report = study_report(config, {run.key: made_up_run(2 * index, 2 * index + 1) for index, run in enumerate(runs)})
    answer = range_test_document(range_test(tiny_range_test(probes=False), tiny_dataset()))
    for name, kind, result in (("study", "study", report), ("loss_evolution", "study", report), ("range_test", "range_test", answer)):
        drawn = draw(name, of_kind(kind, json.loads(json.dumps(result, allow_nan=False))))
        go.Figure(drawn)
        assert drawn["data"]
    loss = draw("loss_evolution", of_kind("study", report))
    assert "cosine, no cycle cosine" in [each["name"] for each in loss["data"]]


def test_names_are_text_and_never_markup() -> None:
    job = training(name='<a href="javascript:x">&', result=FINISHED)
    for name in ("schedule", "ensemble_size", "correlation", "interpolation"):
        for drawn in (draw(name, job), draw(name, job, job)):
            assert "<a" not in json.dumps(drawn)
    assert "&lt;a href" in draw("schedule", job)["layout"]["title"]["text"]


def test_kinds_have_their_own_figures() -> None:
    assert [kind.name for kind in figures_of("train")] == ["schedule", "ensemble_size", "interpolation", "correlation", "range_test"]
    assert [kind.name for kind in figures_of("evaluate")] == ["interpolation", "correlation"]
    assert [kind.name for kind in figures_of("study")] == ["study", "loss_evolution"]


def test_colours_in_an_order_get_lighter() -> None:
    for count in (2, 3, 7, 20):
        lightness = [_luminance(colour) for colour in shades(count)]
        assert lightness == sorted(lightness)
        assert len(set(shades(count))) == count


def test_palette_keeps_apart_without_red_and_green() -> None:
    """Seen without the difference of red and green, any two of the colours for jobs and repeats still differ in lightness or in blue."""
    for index, one in enumerate(PALETTE[:6]):
        for other in PALETTE[index + 1 : 6]:
            blue = abs(int(one[5:7], 16) - int(other[5:7], 16)) / 255
            assert max(blue, abs(_luminance(one) - _luminance(other))) > 0.08, (one, other)


def test_long_subtitles_are_broken_between_words() -> None:
    words = ["word"] * 80
    assert " ".join(wrapped(" ".join(words))).split() == words
    assert max(map(len, wrapped(" ".join(words)))) <= LINE_LENGTH
    assert wrapped("x" * 300) == ["x" * 300]


def _axes(figure: Json) -> list[Json]:
    return [value for key, value in figure["layout"].items() if key.startswith(("xaxis", "yaxis"))]


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
