"""Snapshots are measured by the faster form of their network, and say what the network says."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clr import held_out
from clr.inference import CONVOLUTION_BATCH_ROWS, network_outputs
from clr.splits import split_dataset
from tests.clr.tiny import make_config, make_images, snapshots_of


@pytest.mark.parametrize(("architecture", "params"), [("small_cnn", {"width": 2}), ("resnet", {"depth": 8, "width": 2})])
def test_outputs_are_the_networks_by_its_form(architecture: str, params: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_images(1_500)
    schedule = {"type": "warm_restarts", "cycles": 1, "epochs_per_cycle": 1}
    config = make_config(model={"architecture": architecture, "params": params}, batch_size=64, schedule=schedule)
    looped: list[int] = []

    def counted(model: Any, preprocessing: Any, inputs: Tensor, *rest: Any) -> Tensor:
        looped.append(len(inputs))
        return network_outputs(model, preprocessing, inputs, *rest)

    monkeypatch.setattr(held_out, "network_outputs", counted)
    (snapshot,) = snapshots_of(config, dataset)
    assert max(looped) <= 5, "only to compare the form with"
    rows = split_dataset(dataset, config).validation
    assert len(rows) > CONVOLUTION_BATCH_ROWS
    expected = network_outputs(snapshot.build_network(torch.device("cpu")), snapshot.preprocessing, dataset.inputs, rows)
    assert snapshot.outputs is not None
    torch.testing.assert_close(snapshot.outputs.validation_logits, expected, atol=1e-4, rtol=1e-4)
