"""Where a step's rows come from, and that a GPU computes with the same ones; the tests marked gpu need a CUDA device."""

import pytest
import torch

from clr.row_store import STAGES, RowStore
from clr.training import CycleEnd, StepReport, train
from tests.clr.tiny import make_config, make_images

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
INPUTS = torch.arange(40 * 6, dtype=torch.uint8).reshape(40, 2, 3)


def test_rows_are_taken_in_the_order_asked_for() -> None:
    store = RowStore(INPUTS, torch.device("cpu"))
    inputs, indices = store.take(store.index(torch.tensor([7, 0, 7])))
    assert torch.equal(inputs, torch.stack([INPUTS[7], INPUTS[0], INPUTS[7]]))
    assert indices.tolist() == [7, 0, 7]
    assert store.inputs.data_ptr() == INPUTS.data_ptr()


@pytest.mark.gpu
@needs_cuda
def test_rows_that_do_not_fit_on_the_device_come_through_page_locked_buffers() -> None:
    device = torch.device("cuda")
    resident, passing = RowStore(INPUTS, device), RowStore(INPUTS, device, share=0.0)
    assert (resident.inputs.device.type, passing.inputs.device.type) == ("cuda", "cpu")
    batches = [torch.randperm(40)[: 8 if step % 3 else 5] for step in range(4 * STAGES)]
    taken = [passing.take(passing.index(rows)) for rows in batches]
    for rows, (inputs, indices) in zip(batches, taken, strict=True):
        assert torch.equal(inputs, resident.take(resident.index(rows))[0])
        assert torch.equal(indices.cpu(), rows)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_run_on_the_device_trains_as_on_the_cpu(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clr.runs.RowStore", lambda inputs, device: RowStore(inputs, device, share=share))
    config = make_config(model={"architecture": "small_cnn", "params": {"width": 2}}, augmentation="flip_crop", precision="fp32")
    here, there = (list(train(config, make_images(), device=device)) for device in ("cpu", "cuda"))
    for ours, theirs in zip(here, there, strict=True):
        match ours, theirs:
            case StepReport(), StepReport():
                assert theirs.loss.item() == pytest.approx(ours.loss.item(), rel=1e-2)
            case CycleEnd(), CycleEnd():
                assert theirs.snapshot.step == ours.snapshot.step
            case _:
                pytest.fail(f"{type(ours).__name__} here, {type(theirs).__name__} there")
