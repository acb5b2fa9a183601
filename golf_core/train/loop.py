"""The training loop: warm up, start the clock, step until the budget or the steps run out, average."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf_core.config import GolfConfig
from golf_core.data.shards import TokenStream
from golf_core.distributed import Ranks, device_name, peak_memory_mib
from golf_core.errors import ConfigError, NumericsError, RunError
from golf_core.evaluate.text import ValidationText, score_rows
from golf_core.events import Listener, Note, PhaseFinished, PhaseStarted, TrainStep, Validation, ignore
from golf_core.model.gpt import GPT, loss_function, should_compile
from golf_core.results import Score, TrainResult
from golf_core.train.optimizers import Optimizers, WeightAverage
from golf_core.train.state import (
    Keeper,
    Progress,
    TrainingClock,
    TrainState,
    load_tensors,
    lr_factor,
    qat_temperature,
    random_states,
    set_random_states,
)

REMEDY = "lower the learning rates or check the data"
DIVERGED = 3.0
"""Training has diverged when its loss is so many times that of guessing."""


@dataclass(frozen=True)
class Pace:
    """What all ranks agree on before a step."""

    elapsed_s: float
    lr_factor: float
    go_on: bool
    keep: bool


class Trainer:
    """One training run on this rank. `run()` leaves the averaged weights in `model`.

    With a `keeper` its state is kept now and then, and it begins with the state that was kept, if any.
    """

    def __init__(
        self,
        config: GolfConfig,
        stream: TokenStream,
        text: ValidationText,
        ranks: Ranks,
        seed: int,
        listener: Listener = ignore,
        keeper: Keeper | None = None,
    ) -> None:
        if ranks.world_size > config.train.micro_batches:
            raise ConfigError(
                f"train.micro_batches: {config.train.micro_batches} spans cannot feed {ranks.world_size} ranks"
            )
        self.config, self.train_config, self.ranks, self.seed = config, config.train, ranks, seed
        self._stream, self._text, self._keeper = stream, text, keeper
        self._emit = listener if ranks.is_first else ignore
        torch.manual_seed(seed)
        self.model = GPT(config.model).to(ranks.device)
        self._compiled = should_compile(config.compile, ranks.device)
        self._losses = loss_function(self.model, ranks.device, self._compiled)
        self._optimizers = Optimizers(self.model, config.train, ranks, self._compiled)
        self._temperature = torch.ones((), device=ranks.device)
        self._qat_onset: int | None = None
        self._clock = TrainingClock(ranks)
        self._validation_s = 0.0
        self._resumed_at: tuple[int, ...] = ()

    def run(self) -> TrainResult:
        """Train and return the stage's figures. Raises `NumericsError` when the loss diverges."""
        # Read before the warm-up: a snapshot that cannot be used is told at once.
        kept = None if self._keeper is None else self._keeper.kept(self._stream)
        warmup_s = self._warm_up()
        average = WeightAverage(self.model, self.train_config.ema_decay)
        self._emit(PhaseStarted("train", self.train_config.iterations))
        begin, loss = (0, math.nan) if kept is None else self._resume(kept, average)
        del kept  # as large as all that training holds
        self._clock.start()
        step, loss = self._steps(average, begin, loss)
        average.apply()
        train_s = self._clock.stop()
        self.model.set_qat_temperature(None)
        score = self._validate(step)
        tokens = step * self.train_config.batch_tokens
        result = TrainResult(
            seed=self.seed,
            world_size=self.ranks.world_size,
            device=device_name(self.ranks.device),
            parameters=sum(p.numel() for p in self.model.parameters()),
            steps=step,
            train_seconds=train_s,
            warmup_seconds=warmup_s,
            validation_seconds=self._validation_s,
            ms_per_step=1e3 * train_s / step,
            tokens_per_second=tokens / train_s,
            train_loss=loss,
            val_loss=score.nats_per_token,
            val_bpb=score.bpb,
            qat_onset_step=self._qat_onset,
            peak_memory_mib=self.ranks.largest(peak_memory_mib(self.ranks.device)),
            resumed_at_steps=self._resumed_at,
        )
        figures = {"steps": step, "val_loss": score.nats_per_token, "val_bpb": score.bpb}
        self._emit(PhaseFinished("train", train_s, more=figures))
        return result

    def _steps(self, average: WeightAverage, begin: int, last: float) -> tuple[int, float]:
        """All steps on the clock after the first `begin`, whose last loss is `last`; returns the same of them all."""
        step, pending = begin, None
        loss = torch.tensor(last)
        while step < self.train_config.iterations:
            pace = self._agree_on_pace(step)
            if pace.keep and pace.go_on and step > begin:
                if pending is not None:
                    self._report(*pending)
                    pending = None
                self._keep_off_the_clock(step, loss, average)
                pace = self._agree_on_pace(step)
            if not pace.go_on:
                break
            self._switch_qat(step, pace.lr_factor)
            loss = self._step(step, pace.lr_factor)
            average.update()
            self._clock.step_done()
            step += 1
            # A step is reported when the next one is under way: reading its loss earlier would idle the GPU.
            if pending is not None:
                self._report(*pending)
            pending = (step, loss, pace) if step % self.train_config.log_every == 0 else None
            if self.train_config.val_every and step % self.train_config.val_every == 0:
                self._validate_off_the_clock(step)
        if step == 0:
            raise RunError("not one training step fits into train.wallclock_seconds; raise the budget")
        if pending is not None:
            self._report(*pending)
        last = float(loss)
        self._check_finite(step, last)
        return step, last

    def _resume(self, kept: TrainState, average: WeightAverage) -> tuple[int, float]:
        """Put everything where `kept` has it; returns the steps that are done and the last loss."""
        live = self._tensors(average)
        load_tensors(live, kept.tensors)
        set_random_states(live, self.ranks.device)
        progress = kept.progress
        self._clock.carry_on(progress.elapsed_s, progress.step_seconds)
        self._stream.skip(progress.stream_position - self._stream.position)
        self._validation_s = progress.validation_s
        self._resumed_at = (*progress.resumed_at, progress.step)
        self._qat_onset = progress.qat_onset
        if self._qat_onset is not None:
            self.model.set_qat_temperature(self._temperature)
        message = f"resumed at step {progress.step}, {progress.elapsed_s:.1f} s on the clock"
        self._emit(Note(message))
        return progress.step, progress.loss

    def _keep_off_the_clock(self, step: int, loss_tensor: Tensor, average: WeightAverage) -> None:
        assert self._keeper is not None
        elapsed = self._clock.stop()
        loss = float(loss_tensor)
        # What has diverged is not worth going back to.
        self._check_finite(step, loss)
        progress = Progress(
            step=step,
            elapsed_s=elapsed,
            step_seconds=self._clock.step_seconds,
            loss=loss,
            qat_onset=self._qat_onset,
            validation_s=self._validation_s,
            stream_position=self._stream.position,
            resumed_at=self._resumed_at,
        )
        message = self._keeper.keep(TrainState(progress, self._tensors(average)), self._stream)
        self._emit(Note(message, snapshot_step=step))
        self._clock.start()

    def _tensors(self, average: WeightAverage) -> dict[str, Tensor]:
        """All tensors that training goes on from, live. Gradients are made anew by every step."""
        weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return weights | self._optimizers.tensors() | average.tensors() | random_states(self.ranks.device)

    def _warm_up(self) -> float:
        """Run steps to compile all that will run on the clock, then put everything back."""
        began = time.perf_counter()
        weights = copy.deepcopy(self.model.state_dict())
        # Warm-up reads from a copy of the stream, so that the clocked run begins at the first token.
        stream, self._stream = self._stream, copy.copy(self._stream)
        self._emit(PhaseStarted("warmup", self.train_config.warmup_steps))
        for step in range(self.train_config.warmup_steps):
            # The second half runs with late QAT, which is a different graph.
            late = 2 * step >= self.train_config.warmup_steps
            self.model.set_qat_temperature(self._temperature if late else None)
            self._step(step, 1.0)
        self.model.set_qat_temperature(None)
        self.model.load_state_dict(weights)
        self._optimizers = Optimizers(self.model, self.train_config, self.ranks, self._compiled)
        self._stream = stream
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        self._emit(PhaseFinished("warmup", seconds))
        return seconds

    def _step(self, step: int, factor: float) -> Tensor:
        """One global step: this rank's spans forward and backward, one update. Returns the mean loss."""
        self._optimizers.zero()
        for ids, targets in self._own_spans():
            loss = self._losses(ids, targets).mean() / self.train_config.micro_batches
            loss.backward()
            self._optimizers.add_loss(loss)
        return self._optimizers.step(step, factor)

    def _own_spans(self) -> list[tuple[Tensor, Tensor]]:
        """The (ids, targets) [rows, seq_len] of this rank's spans of the next global batch.

        The batch is always cut into `micro_batches` spans, whatever the number of ranks, so that the stream of
        tokens does not depend on it; rank r takes spans r, r + world_size, …
        """
        length = self.train_config.batch_tokens // self.train_config.micro_batches
        spans = []
        for index in range(self.train_config.micro_batches):
            if index % self.ranks.world_size != self.ranks.rank:
                self._stream.skip(length + 1)
                continue
            host = torch.from_numpy(self._stream.take(length + 1).astype(np.int32))
            if self.ranks.device.type == "cuda":
                host = host.pin_memory()
            span = host.to(self.ranks.device, non_blocking=True).long()
            rows = (-1, self.train_config.seq_len)
            spans.append((span[:-1].view(rows), span[1:].view(rows)))
        return spans

    def _agree_on_pace(self, step: int) -> Pace:
        """Rank 0 reads the clock; all ranks follow, so that none takes another rate or another last step."""
        elapsed = self._clock.elapsed()
        budget = self.train_config.wallclock_seconds
        go_on = budget is None or self._clock.fits_another(budget, elapsed)
        factor = lr_factor(self.train_config, step, elapsed)
        keep = self._keeper is not None and self._keeper.due()
        elapsed, factor, go, keeps = self.ranks.agree([elapsed, factor, float(go_on), float(keep)])
        return Pace(elapsed, factor, bool(go), bool(keeps))

    def _switch_qat(self, step: int, factor: float) -> None:
        if self._qat_onset is None:
            if factor >= self.train_config.qat_threshold:
                return
            self._qat_onset = step
            self.model.set_qat_temperature(self._temperature)
            self._emit(Note(f"late QAT from step {step}"))
        self._temperature.fill_(qat_temperature(self.train_config, step, self._qat_onset))

    def _report(self, step: int, loss_tensor: Tensor, pace: Pace) -> None:
        loss = float(loss_tensor)
        self._check_finite(step, loss)
        seconds_per_step = pace.elapsed_s / max(step - 1, 1)
        eta = (self.train_config.iterations - step) * seconds_per_step
        if self.train_config.wallclock_seconds is not None:
            eta = min(eta, self.train_config.wallclock_seconds - pace.elapsed_s)
        event = TrainStep(
            step=step,
            total=self.train_config.iterations,
            loss=loss,
            lr_factor=pace.lr_factor,
            ms_per_step=1e3 * seconds_per_step,
            tokens_per_s=self.train_config.batch_tokens / seconds_per_step if seconds_per_step else 0.0,
            elapsed_s=pace.elapsed_s,
            eta_s=max(eta, 0.0),
        )
        self._emit(event)

    def _check_finite(self, step: int, loss: float) -> None:
        # Every rank sees the same reduced loss, so that all of them end here together.
        if not math.isfinite(loss):
            raise NumericsError(f"the training loss is {loss} at step {step}: {REMEDY}")
        chance = math.log(self.config.model.vocab_size)
        if loss > DIVERGED * chance:
            raise NumericsError(
                f"training diverged: at step {step} the loss is {loss:.2f} nats a token, where guessing costs "
                f"{chance:.2f}; {REMEDY}"
            )

    def _validate_off_the_clock(self, step: int) -> None:
        self._clock.stop()
        # Validation is of the weights as they are: fake quantisation belongs to training.
        self.model.set_qat_temperature(None)
        self._validate(step)
        if self._qat_onset is not None:
            self.model.set_qat_temperature(self._temperature)
        self._clock.start()

    def _validate(self, step: int) -> Score:
        began = time.perf_counter()
        self._emit(Note(f"validating at step {step}"))
        evaluate = self.config.evaluate
        score = score_rows(self.model, self._text, evaluate.seq_len, evaluate.batch_windows, self.ranks)
        self._validation_s += time.perf_counter() - began
        self._emit(Validation(step, val_loss=score.nats_per_token, val_bpb=score.bpb))
        return score
