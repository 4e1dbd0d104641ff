"""Ensembles: the identities that averaging probabilities must satisfy, and inputs that are refused."""

import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clr.combination import combine_probabilities, combine_values, mean_probabilities
from clr.datasets import Dataset
from clr.ensemble import Ensemble, EnsemblePrediction, RegressionPrediction
from clr.errors import EnsembleError, InputError
from clr.inference import BATCH_ROWS
from clr.metrics import brier_score, classification_metrics, negative_log_likelihood, regression_metrics
from clr.snapshots import Snapshot, save_snapshot
from clr.training import CycleEnd, train
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of


@pytest.fixture(scope="module")
def images() -> Dataset:
    return make_images()


@pytest.fixture(scope="module")
def snapshots(images: Dataset) -> list[Snapshot]:
    return snapshots_of(make_config(model={"architecture": "small_cnn", "params": {"width": 2}}), images)


@pytest.fixture(scope="module")
def value_snapshots() -> list[Snapshot]:
    return snapshots_of(make_config(), make_table(regression=True))


def random_members(seed: int, num_members: int, num_rows: int = 20, num_classes: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(num_members, num_rows, num_classes, generator=draws)
    return logits.softmax(2), torch.randint(num_classes, (num_rows,), generator=draws)


members = st.tuples(st.integers(0, 10_000), st.integers(1, 6)).map(lambda drawn: random_members(*drawn))


@given(members)
def test_likelihood_of_the_mean_is_no_worse_than_the_mean_likelihood(drawn: tuple[Tensor, Tensor]) -> None:
    probs_MBC, labels = drawn
    mean_nll = sum(negative_log_likelihood(probs, labels) for probs in probs_MBC) / len(probs_MBC)
    assert negative_log_likelihood(probs_MBC.double().mean(0), labels) <= mean_nll + 1e-12


@given(members)
def test_brier_score_of_the_mean_is_the_mean_score_minus_the_ambiguity(drawn: tuple[Tensor, Tensor]) -> None:
    probs_MBC, labels = drawn[0].double(), drawn[1]
    mean_BC = probs_MBC.mean(0)
    ambiguity = (probs_MBC - mean_BC).square().sum(2).mean().item()
    mean_score = sum(brier_score(probs, labels) for probs in probs_MBC) / len(probs_MBC)
    assert brier_score(mean_BC, labels) == pytest.approx(mean_score - ambiguity, abs=1e-12)


@given(members)
def test_uncertainty_stays_in_its_bounds(drawn: tuple[Tensor, Tensor]) -> None:
    combined = combine_probabilities(drawn[0])
    torch.testing.assert_close(combined.probs_BC.sum(1), torch.ones(20))
    assert combined.mutual_information_B.min() >= 0
    assert (combined.mutual_information_B <= combined.entropy_B + 1e-6).all()
    assert combined.entropy_B.max() <= np.log(5) + 1e-6
    assert combined.agreement_B.min() >= 0
    assert combined.agreement_B.max() <= 1


def test_uncertainty_by_hand() -> None:
    combined = combine_probabilities(torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]))
    assert combined.member_probs_MBC is None
    mixed = -(1 / 3) * np.log(1 / 3) - (2 / 3) * np.log(2 / 3)
    np.testing.assert_allclose(combined.entropy_B.numpy(), [mixed, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(combined.mutual_information_B.numpy(), [mixed, 0], atol=1e-7)
    np.testing.assert_allclose(combined.agreement_B.numpy(), [2 / 3, 1], rtol=1e-6)
    assert combined.labels_B.tolist() == [1, 0]  # a tie goes to the lower class


def test_spread_of_values_by_hand() -> None:
    combined = combine_values(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert combined.value_B.tolist() == [2.0, 5.0]
    assert combined.std_B.tolist() == [1.0, 0.0]


def test_batches_give_what_all_rows_together_give(images: Dataset, snapshots: list[Snapshot]) -> None:
    rows = images.inputs.repeat(60, 1, 1)[: 2 * BATCH_ROWS + 1]
    ensemble = Ensemble([snapshots[0], snapshots[1], snapshots[1]])
    found = ensemble.predict_with_uncertainty(rows, with_members=True)
    assert isinstance(found, EnsemblePrediction)
    members_MBC = ensemble.member_probabilities(rows)
    assert found.member_probs_MBC is not None
    assert torch.equal(found.member_probs_MBC, members_MBC)
    exact_MBC = members_MBC.double()
    entropy_B = torch.special.entr(exact_MBC.mean(0)).sum(1)
    torch.testing.assert_close(found.probs_BC, members_MBC.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.entropy_B, entropy_B.float(), atol=1e-6, rtol=0)
    disagreement_B = entropy_B - torch.special.entr(exact_MBC).sum(2).mean(0)
    torch.testing.assert_close(found.mutual_information_B, disagreement_B.clamp_min(0).float(), atol=1e-6, rtol=0)
    assert torch.equal(found.labels_B, members_MBC.mean(0).argmax(1))
    torch.testing.assert_close(found.agreement_B, (members_MBC.argmax(2) == found.labels_B).float().mean(0))


@pytest.mark.parametrize("num_rows", [1, 7, 36, BATCH_ROWS + 1])
def test_the_mean_alone_has_the_bits_of_the_mean_with_uncertainty(images: Dataset, snapshots: list[Snapshot], num_rows: int) -> None:
    rows = images.inputs.repeat(1 + num_rows // len(images.inputs), 1, 1)[:num_rows]
    ensemble = Ensemble(snapshots)
    both = ensemble.predict_with_uncertainty(rows)
    assert isinstance(both, EnsemblePrediction)
    assert torch.equal(ensemble.predict(rows), both.probs_BC)


@given(members)
def test_the_mean_alone_is_the_same_stacked_or_one_by_one(drawn: tuple[Tensor, Tensor]) -> None:
    probs_MBC, _ = drawn
    assert torch.equal(mean_probabilities(probs_MBC), combine_probabilities(probs_MBC).probs_BC)
    assert torch.equal(mean_probabilities(iter(probs_MBC)), combine_probabilities(iter(probs_MBC)).probs_BC)


def test_members_probabilities_are_let_go_one_by_one() -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def members() -> Iterator[Tensor]:
        for seed in range(4):
            assert all(one() is None for one in earlier[:-1]), "only the latest may still be in use"
            probs_BC = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).softmax(1)
            earlier.append(weakref.ref(probs_BC))
            yield probs_BC
            del probs_BC

    combine_probabilities(members())
    assert len(earlier) == 4


def test_identical_members_give_the_member(images: Dataset, snapshots: list[Snapshot]) -> None:
    one, three = Ensemble(snapshots[:1]), Ensemble([snapshots[0]] * 3)
    torch.testing.assert_close(three.predict(images.inputs), one.predict(images.inputs), rtol=1e-6, atol=0)
    both = three.predict_with_uncertainty(images.inputs)
    assert isinstance(both, EnsemblePrediction)
    assert both.mutual_information_B.max() < 1e-6
    assert both.agreement_B.tolist() == [1.0] * len(images.targets)


def test_mean_of_softmax_from_files_and_from_numpy(tmp_path: Path, images: Dataset, snapshots: list[Snapshot]) -> None:
    paths = [tmp_path / f"{snapshot.cycle}.safetensors" for snapshot in snapshots]
    for snapshot, path in zip(snapshots, paths, strict=True):
        save_snapshot(snapshot, path)
    ensemble = Ensemble.load(paths)
    for path in paths:
        path.write_bytes(b"")  # the ensemble must not depend on the files any more
    probs_MBC = ensemble.member_probabilities(images.inputs.numpy())
    assert probs_MBC.shape == (2, 36, 3)
    for network, probs_BC in zip((snapshot.build_network(torch.device("cpu")) for snapshot in snapshots), probs_MBC, strict=True):
        x = (images.inputs.float() - snapshots[0].preprocessing.mean) / snapshots[0].preprocessing.std
        torch.testing.assert_close(probs_BC, network(x[:, None]).softmax(1))
    torch.testing.assert_close(ensemble.predict(images.inputs), probs_MBC.mean(0), atol=1e-7, rtol=0)
    assert ensemble.predict(images.inputs).dtype == torch.float32
    assert (ensemble.num_members, ensemble.input_shape, ensemble.class_names, ensemble.columns) == (2, (8, 8), ("0", "1", "2"), ())
    assert ensemble.size_bytes > 2 * snapshots[0].size_bytes == 2 * sum(tensor.nbytes for tensor in snapshots[0].tensors.values())


def test_metrics_of_a_run_are_those_of_its_ensemble() -> None:
    dataset = make_images(60)
    dataset = Dataset.from_arrays(
        dataset.inputs[:40].numpy(), dataset.targets[:40].numpy(), x_test=dataset.inputs[40:].numpy(), y_test=dataset.targets[40:].numpy()
    )
    assert dataset.test_inputs is not None
    assert dataset.test_targets is not None
    ends = [event for event in train(make_config(), dataset) if isinstance(event, CycleEnd)]
    for num_members, end in enumerate(ends, start=1):
        assert end.ensemble.num_members == num_members
        ensemble = Ensemble([end.snapshot for end in ends[:num_members]])
        assert classification_metrics(ensemble.predict(dataset.test_inputs), dataset.test_targets) == pytest.approx(
            end.ensemble.test, rel=1e-5
        )
        member = Ensemble([end.snapshot])
        assert classification_metrics(member.predict(dataset.test_inputs), dataset.test_targets) == pytest.approx(
            end.snapshot.metrics["test"], rel=1e-5
        )


def test_regression_answers_in_the_unit_of_the_target(value_snapshots: list[Snapshot]) -> None:
    table = make_table(regression=True)
    ensemble = Ensemble(value_snapshots)
    combined = ensemble.predict_with_uncertainty(table.inputs)
    assert isinstance(combined, RegressionPrediction)
    assert torch.equal(combined.member_values_MB, ensemble.member_values(table.inputs))
    assert torch.equal(combined.value_B, ensemble.predict(table.inputs))
    np.testing.assert_allclose(combined.std_B.numpy(), combined.member_values_MB.numpy().std(0), rtol=1e-4, atol=1e-4)
    assert regression_metrics(combined.value_B, table.targets)["rmse"] < 0.5 * table.targets.std().item()
    outputs = value_snapshots[0].outputs
    assert outputs is not None
    assert regression_metrics(outputs.test_logits, outputs.test_targets) == pytest.approx(value_snapshots[0].metrics["test"], rel=1e-5)
    with pytest.raises(EnsembleError, match="needs an ensemble for classification, got one for regression"):
        ensemble.member_probabilities(table.inputs)


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8", ">f4", "?"])
def test_equal_numbers_of_any_type_give_equal_answers(snapshots: list[Snapshot], dtype: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (4, 8, 8))
    ensemble = Ensemble(snapshots)
    given_rows = rows.astype(dtype)
    given_rows.setflags(write=False)
    assert torch.equal(ensemble.predict(given_rows), ensemble.predict(torch.from_numpy(rows)))


def rows_with(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = np.zeros((5, 8, 8))
    rows[3, 1, 2] = value
    return rows


def test_large_finite_numbers_are_taken_and_a_nan_among_many_is_found(snapshots: list[Snapshot]) -> None:
    ensemble = Ensemble(snapshots)
    assert ensemble.checked(rows_with(1e30)).max() == np.float32(1e30), "though its square is beyond float32"
    many = np.zeros((200, 8, 8), np.float32)
    many[150, 7, 7] = np.nan
    with pytest.raises(InputError, match="row 150"):
        ensemble.checked(many)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((8, 8)), r"must have the shape \(rows, 8, 8\) with at least one row, got \(8, 8\)"),
        (np.zeros((2, 64)), r"got \(2, 64\)"),
        (np.zeros(()), r"got \(\)"),
        (np.zeros((0, 8, 8)), "at least one row"),
        (rows_with(np.nan), "NaN, infinity or larger in row 3"),
        (rows_with(-np.inf), "row 3"),
        (rows_with(1e39), "row 3"),
        (np.zeros((2, 8, 8), complex), "must hold numbers, got complex128"),
        (np.full((2, 8, 8), "1"), "must hold numbers, got <U1"),
        (np.full((2, 8, 8), None), "must hold numbers, got object"),
        (torch.full((2, 8, 8), torch.nan), "row 0"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    snapshots: list[Snapshot], inputs: np.ndarray[tuple[int, ...], np.dtype[np.float64]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Ensemble(snapshots).predict(inputs)


def test_members_must_belong_together(snapshots: list[Snapshot], value_snapshots: list[Snapshot]) -> None:
    with pytest.raises(EnsembleError, match="at least one snapshot"):
        Ensemble([])
    with pytest.raises(EnsembleError, match="members must agree in task"):
        Ensemble([snapshots[0], value_snapshots[0]])
    with pytest.raises(EnsembleError, match="members must agree in class_names"):
        Ensemble([snapshots[0], replace(snapshots[1], class_names=("a", "b", "c"))])


def test_size_covers_what_the_objects_of_tiny_networks_take(snapshots: list[Snapshot]) -> None:
    Ensemble(snapshots)  # what is made once
    tracemalloc.start()
    try:
        kept = [Ensemble(snapshots) for _ in range(5)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weights = sum(snapshot.size_bytes for snapshot in snapshots)
    assert 5 * weights < taken <= sum(ensemble.size_bytes for ensemble in kept)


def test_threads_do_not_disturb_each_other(images: Dataset, snapshots: list[Snapshot]) -> None:
    ensemble = Ensemble(snapshots)
    expected = [ensemble.predict(images.inputs[row : row + 4]) for row in range(16)]
    answers: dict[int, Tensor] = {}

    def ask(row: int) -> None:
        for _ in range(5):
            answers[row] = ensemble.predict(images.inputs[row : row + 4])

    threads = [Thread(target=ask, args=(row,)) for row in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(answers[row], expected[row]) for row in range(16))
