"""A run between two optimizer steps: network, optimizer, data on the device, and the ensemble so far."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from clr.augmentation import Augmentation, draw_moves
from clr.checkpoints import Checkpoint, environment
from clr.config import TrainingConfig
from clr.cycle_rule import SAMPLE_ROWS, Look
from clr.datasets import Dataset
from clr.errors import CheckpointError, DivergedError, ScheduleError
from clr.gradients import gradients_form
from clr.held_out import HeldOut
from clr.inference import network_outputs
from clr.minima import is_minimum
from clr.models import build_model, has_dropout, is_convolutional
from clr.optimizers import build_optimizer, restore_state, set_learning_rate, state_tensors
from clr.planning import RunPlan
from clr.preprocessing import Preprocessing
from clr.randomness import generator, mix
from clr.row_store import RowStore
from clr.run_events import CycleEnd, Rollback
from clr.schedule_config import peak_rate
from clr.schedules import Schedule
from clr.snapshots import Metrics, Outputs, Snapshot
from clr.splits import split_dataset
from clr.step_graph import build_step
from clr.targets import Task
from clr.training_step import Batch

MAX_ROLLBACKS = 3
"""Returns to the start of one cycle before a run counts as diverged."""


class Run:
    """Invariant: after ``step`` updates and ``num_members`` cycle ends, everything is a function of config, data and device."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, schedule: Schedule, steps_per_epoch: int, device: torch.device) -> None:
        self.step = 0
        self.num_members = 0
        self.is_stopped = False
        self._config, self._dataset, self._steps_per_epoch, self._device = config, dataset, steps_per_epoch, device
        split = split_dataset(dataset, config)
        self._train_rows, self._validation_rows = split.train, split.validation
        self.plan = RunPlan(
            config.schedule,
            schedule,
            steps_per_epoch=steps_per_epoch,
            num_train_rows=len(split.train),
            num_validation=len(split.validation),
        )
        self._preprocessing = Preprocessing.fit(dataset, split.train).to(device)
        self._rows = RowStore(dataset.inputs, device)
        self._targets = self._loss_targets().to(device)
        self._model = self._fresh_model()
        self._begin_steps()
        self._last_loss = torch.zeros((), device=device)  # of the last step
        self._reseeds = has_dropout(config.model)
        self._mark_start_of_cycle()
        self._augmentation: Augmentation = "none" if config.augmentation == "auto" else config.augmentation
        self._held_out = HeldOut(dataset, split, self._preprocessing, self._rows.inputs, chooses_members=self.plan.decides_cycles)

    @property
    def schedule(self) -> Schedule:
        """The learning rates as they are planned now."""
        return self.plan.schedule

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """The training rows in the order of ``epoch``, cut into optimizer steps; the last may be smaller."""
        order = torch.randperm(len(self._train_rows), generator=generator(self._config.seed, "order", epoch))
        return torch.split(self._rows.index(self._train_rows[order]), self._config.batch_size * self._config.accumulation)

    def learning_rate(self, step: int) -> float:
        """The schedule's rate, lowered in a cycle that had diverged."""
        rate = self.schedule.rate(step)
        if self._peak_scale == 1.0:
            return rate
        floor = getattr(self._config.schedule, "min_lr", 0.0)  # schedules without the field fall to 0
        return float(floor + (rate - floor) * self._peak_scale)

    def update(self, rows: Tensor, learning_rate: float) -> Tensor:
        """One optimizer step on the rows; returns their mean loss before it. Never waits for the device."""
        set_learning_rate(self._optimizer, learning_rate)
        if self._reseeds:
            torch.manual_seed(mix(self._config.seed, "dropout", self.step))
        inputs, indices = self._rows.take(rows)
        targets = self._targets.index_select(0, indices)
        moves = draw_moves(
            self._augmentation, len(rows), self._dataset.input_shape, seed=self._config.seed, step=self.step, device=self._device
        )
        self._last_loss = self._do_step(Batch(inputs, targets, moves))
        self.step += 1
        return self._last_loss

    def has_diverged(self) -> bool:
        """Whether the loss of the last step or a weight after it is no finite number; waits for the device."""
        tensors = (self._last_loss, *self._model.parameters())
        return not bool(torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all())

    def roll_back(self) -> Rollback:
        """Returns to the start of the cycle with its weights and a fresh optimizer, and halves the cycle's rates.

        Raises:
            DivergedError: The cycle has been rolled back ``MAX_ROLLBACKS`` times.
        """
        diverged_at, cycle = self.step, self.schedule.cycle_of(self.step - 1)
        if self._rollbacks == MAX_ROLLBACKS:
            raise DivergedError(
                f"the loss or a weight is no finite number at step {diverged_at}, also with the rates of cycle {cycle} lowered "
                f"to {self._peak_scale:g} of the schedule's: lower max_lr, for example to a tenth"
            )
        self._model.load_state_dict(self._minimum)
        self._begin_steps()  # the old moments led astray
        self._rollbacks += 1
        self._peak_scale /= 2
        self.step = self._minimum_step
        self.plan.rewind(self.step)
        return Rollback(self.step, cycle, diverged_at, self._peak_scale, self._rollbacks)

    def _mark_start_of_cycle(self) -> None:
        self._minimum = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._minimum_step = self.step
        self._peak_scale = 1.0
        self._rollbacks = 0

    def validation_losses(self) -> Tensor:
        """The loss of each validation row, in evaluation mode, float64 on the CPU; the run goes on as if nobody had looked."""
        return self._losses(self._validation_rows)[0]

    def _losses(self, rows: Tensor) -> tuple[Tensor, float]:
        """Of each row the loss that is trained on; and the error: the share of wrong classes, or the root of the mean square."""
        self._model.eval()
        outputs = network_outputs(self._model, self._preprocessing, self._rows.inputs, self._rows.index(rows)).double()
        self._model.train()
        targets = self._targets[rows.to(self._device)].cpu()
        if self._dataset.task is Task.CLASSIFICATION:
            return functional.cross_entropy(outputs, targets, reduction="none"), (outputs.argmax(1) != targets).double().mean().item()
        squares = (outputs.squeeze(1) - targets.double()).square()
        return squares, squares.mean().sqrt().item()

    def look(self) -> None:
        """Measures the network for the choice of cycles; without finite losses it is left to a later step, or to the next rollback."""
        order = torch.randperm(len(self._train_rows), generator=generator(self._config.seed, "look"))
        train, train_error = self._losses(self._train_rows[order[:SAMPLE_ROWS]])
        validation, validation_error = self._losses(self._validation_rows)
        losses = train.mean().item(), validation.mean().item()
        if not all(map(math.isfinite, losses)):
            return
        share = self.schedule.rate(self.step - 1) / peak_rate(self._config.schedule)
        self.plan.add_look(Look(self.step, share, *losses, train_error, validation_error))

    def end_cycle(self) -> CycleEnd:
        """Measures the network as it is, adds it to the ensemble, and takes the snapshot."""
        self._model.eval()
        metrics, outputs, ensemble = self._held_out.add_member(self._model)
        self._model.train()
        self.num_members += 1
        snapshot = self._snapshot(metrics, outputs)
        self._mark_start_of_cycle()
        return CycleEnd(self.step, snapshot.epoch, snapshot.cycle, snapshot, ensemble, self)

    def replan(self, step: int, num_steps: int, reason: str, evidence: Mapping[str, float]) -> None:
        """Changes the length of the run after ``step``, the one just done."""
        self._check_current(step)
        self.plan.replan(step, num_steps, reason, evidence)

    def stop(self, step: int) -> CycleEnd:
        """Ends the run after ``step``, the one just done."""
        self._check_current(step)
        self.is_stopped = True
        return self.end_cycle()

    def lacks_snapshot(self) -> bool:
        """Whether the last step ended a cycle whose snapshot is still to be taken."""
        return self.step > 0 and self.schedule.is_cycle_end(self.step - 1) and self.num_members <= self.schedule.cycle_of(self.step - 1)

    def checkpoint(self, step: int) -> Checkpoint:
        """Everything that ``restore`` needs, copied to the CPU."""
        self._check_current(step)
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state_tensors(self._optimizer).items()}
        tensors |= {f"held_out.{name}": tensor for name, tensor in self._held_out.tensors().items()}
        tensors |= {f"minimum.{name}": tensor for name, tensor in self._minimum.items()}
        tensors["last.loss"] = self._last_loss
        state = {
            "members": self.num_members,
            "minimum_step": self._minimum_step,
            "peak_scale": self._peak_scale,
            "rollbacks": self._rollbacks,
            "plan": self.plan.state(),
            "config": self._config.model_dump(mode="json"),
            "dataset_sha256": self._dataset.sha256,
            "environment": environment(str(self._device))
            | {"steps": self._do_step.form, "gradients": gradients_form(self._config, self._device)},
        }
        return Checkpoint(step, _copies(tensors), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts the run where it was when the checkpoint was taken.

        Raises:
            CheckpointError: It belongs to another config or other data, or lacks tensors.
        """
        state = checkpoint.state
        then = {"config": TrainingConfig.model_validate(state["config"]), "dataset_sha256": state["dataset_sha256"]}
        for name, value in (("config", self._config), ("dataset_sha256", self._dataset.sha256)):
            if then[name] != value:
                raise CheckpointError(f"the checkpoint's {name} must be this run's, {value}, got {then[name]}: start anew")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "held_out": {}, "minimum": {}, "last": {}}
        try:
            for name, tensor in checkpoint.tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            self.plan.restore(state["plan"])
            self._model.load_state_dict(parts["model"])
            self._begin_steps()
            restore_state(self._config.optimizer, self._optimizer, parts["optimizer"])
            self._held_out.restore(parts["held_out"], state["members"])
            for name, tensor in self._minimum.items():
                tensor.copy_(parts["minimum"][name])
            self._last_loss = parts["last"]["loss"].to(self._device)
            self._minimum_step, self._peak_scale = state["minimum_step"], state["peak_scale"]
            self._rollbacks = state["rollbacks"]
        except (KeyError, RuntimeError, TypeError, ScheduleError) as error:
            raise CheckpointError(f"the checkpoint doesn't fit the run ({error}): resume from an older one") from error
        if not 0 < checkpoint.step <= self.schedule.num_steps:
            raise CheckpointError(f"the checkpoint's step must be in 1 … {self.schedule.num_steps}, got {checkpoint.step}: start anew")
        self.step, self.num_members = checkpoint.step, state["members"]

    def _fresh_model(self) -> nn.Module:
        """The network with the seed's initial weights; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self._config.seed, "weights"))
            model = build_model(self._config.model, self._dataset.input_shape, self._dataset.num_outputs)
        if is_convolutional(self._config.model):
            return model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # missing in its types
        return model.to(self._device)

    def _begin_steps(self) -> None:
        """A fresh optimizer for the network as it is, and the step that uses it: a captured one would go on with the old one's tensors."""
        self._optimizer = build_optimizer(self._config.optimizer, self._model, 0.0)
        self._do_step = build_step(self._config, self._dataset, self._model, self._optimizer, self._preprocessing)

    def _loss_targets(self) -> Tensor:
        """Class indices, or standardised values."""
        if self._dataset.task is Task.CLASSIFICATION:
            return self._dataset.targets
        fit = self._preprocessing
        return ((self._dataset.targets.double() - fit.target_mean) / fit.target_std).float()

    def _snapshot(self, metrics: dict[str, Metrics], outputs: Outputs) -> Snapshot:
        schedule, last = self.schedule, self.step - 1
        return Snapshot(
            cycle=schedule.cycle_of(last),
            step=self.step,
            epoch=self.step / self._steps_per_epoch,
            learning_rate=self.learning_rate(last),
            next_learning_rate=schedule(self.step) if self.step < schedule.num_steps else None,
            is_minimum=is_minimum(self._config.schedule, schedule, last),
            config=self._config,
            dataset_sha256=self._dataset.sha256,
            task=self._dataset.task,
            input_shape=self._dataset.input_shape,
            class_names=self._dataset.class_names,
            columns=self._dataset.columns,
            preprocessing=self._preprocessing.to(torch.device("cpu")),
            metrics=metrics,
            tensors=_copies(self._model.state_dict()),
            outputs=outputs,
        )

    def _check_current(self, step: int) -> None:
        if step != self.step:
            raise RuntimeError(f"the report of step {step} is out of date, the run is at step {self.step}: use it before the next event")


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, row-major: ``state_dict`` hands out references that the next step would change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
