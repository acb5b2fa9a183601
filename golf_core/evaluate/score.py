"""The evaluation: chunk by chunk, score all windows, update the mixer, count, adapt."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from golf_core.config import EvalConfig
from golf_core.distributed import Ranks, device_name
from golf_core.evaluate.adaptation import TestTimeTrainer
from golf_core.evaluate.experts import KraftMeter, Positions, Published, neural_terms
from golf_core.evaluate.text import ValidationText, Windows, bits_per_byte, chunk_windows, sliding_windows
from golf_core.events import Chunk, Listener, PhaseFinished, PhaseStarted, ignore
from golf_core.mixture.mixer import Mixer
from golf_core.model.gpt import GPT, autocast, hidden_function
from golf_core.results import EXPERTS, SCORERS, ChunkRecord, EvalResult, Score


@dataclass(frozen=True)
class Batch:
    """Scored positions of some windows, from `first` on: the positions [n] and their logits [n, vocab] float32."""

    first: int
    positions: Tensor
    at: Positions
    logits: Tensor

    @property
    def rows(self) -> Tensor:
        """0..n - 1: which row of the logits belongs to each position."""
        return torch.arange(len(self.logits), device=self.logits.device)


class Totals:
    """Sums over scored tokens in float64, reduced over the ranks once a chunk.

    Columns: nats of the scorers in the order of `SCORERS`, ln Z, bytes, tokens; then the five experts' nats.
    """

    NEURAL, MIXTURE, PUBLISHED, LOG_Z, BYTES, TOKENS, EXPERTS = range(7)

    def __init__(self, device: torch.device) -> None:
        self.chunk = torch.zeros(self.EXPERTS + len(EXPERTS), dtype=torch.float64, device=device)
        self.all = np.zeros(len(self.chunk))
        self.mixed = np.zeros(len(self.chunk))

    def add(self, column: int, values: Tensor) -> None:
        """Add up values [n] under a column."""
        self.chunk[column] += values.double().sum()

    def add_experts(self, nlls: Tensor) -> None:
        """Add the five experts' nlls [n, 5]."""
        self.chunk[self.EXPERTS :] += nlls.double().sum(dim=0)

    def finish_chunk(self, ranks: Ranks, mixing: bool) -> np.ndarray:
        """The chunk's sums over all ranks, added to the totals; the next chunk starts from zero."""
        sums = ranks.sum_(self.chunk).cpu().numpy().copy()
        self.chunk.zero_()
        self.all += sums
        if mixing:
            self.mixed += sums
        return sums

    def bpb(self, scorer: str) -> float:
        """Running BPB of a scorer."""
        return bits_per_byte(self.all[SCORERS.index(scorer)], self.all[self.BYTES])


@dataclass(frozen=True)
class Losses:
    """nats [n] of some positions in a row, from `first` on, under each scorer that speaks. Of this rank alone."""

    first: int
    by_scorer: dict[str, Tensor]


class Evaluator:
    """One evaluation of `model` on this rank. `run()` gives the same figures on any number of ranks.

    `keep` is shown the losses of each chunk (`golf_core.evaluate.breakdown.TokenLosses`).
    """

    def __init__(
        self,
        model: GPT,
        config: EvalConfig,
        text: ValidationText,
        ranks: Ranks,
        listener: Listener = ignore,
        compiled: bool = False,
        keep: Callable[[list[Losses]], None] | None = None,
    ) -> None:
        self.config, self.text, self.ranks = config, text, ranks
        self._keep = keep
        self._emit = listener if ranks.is_first else ignore
        self._trainer = TestTimeTrainer(model, config, text, ranks, compiled) if config.ttt else None
        self._scorer = self._trainer.scorer if self._trainer else model
        self._compiled = compiled
        self._hidden = hidden_function(self._scorer, ranks.device, compiled)
        vocab = model.config.vocab_size
        self.published = Published(config, vocab, ranks.device) if config.hedge else None
        # A text whose end is scored repeatedly cannot be gone through once, in order.
        mixing = config.hedge and not config.repeat_tail
        self._mixer = Mixer(config.mixer, vocab, text.tokens, ranks) if mixing else None
        self._kraft = KraftMeter(ranks)
        self._totals = Totals(ranks.device)
        self._times = PhaseTimes(ranks.device)
        self._windows = sliding_windows(text.num_targets, config.seq_len, config.stride, config.repeat_tail)
        # The last chunk with a window of its own: windows reach over chunk ends where the stride does not divide them.
        self.num_chunks = int(self._windows.first[-1]) // config.chunk_tokens + 1
        self.history: list[ChunkRecord] = []

    @property
    def scorers(self) -> tuple[str, ...]:
        """Which of `SCORERS` this evaluation computes."""
        there = {"neural": True, "mixture": self._mixer is not None, "published": self.published is not None}
        return tuple(name for name in SCORERS if there[name])

    def run(self, began: float | None = None) -> EvalResult:
        """Evaluate the whole text. `began` (perf_counter) lets the time include what came before, such as loading."""
        now = time.perf_counter()
        began = now if began is None else began
        self._emit(PhaseStarted("evaluate", self.num_chunks))
        self._times.start()
        for chunk in range(self.num_chunks):
            losses = self.score_windows(self.windows_of(chunk), chunk_ends=True)
            if self._keep:
                self._keep(losses)
            self.adapt(chunk)
            self._times.ended("adaptation")
            self._report(chunk, time.perf_counter() - began)
        seconds = self.ranks.agree([time.perf_counter() - began])[0]
        result = self._result(seconds, {"loading": now - began, **self._times.seconds()})
        figures = {f"bpb_{name}": self._totals.bpb(name) for name in self.scorers}
        self._emit(PhaseFinished("evaluate", seconds, more=figures))
        return result

    def windows_of(self, chunk: int) -> Windows:
        """The windows of chunk number `chunk` (from 0)."""
        return chunk_windows(self._windows, chunk, self.config.chunk_tokens)

    @torch.no_grad()
    def score_windows(self, windows: Windows, chunk_ends: bool) -> list[Losses]:
        """Score windows that follow those scored last; at a chunk's end, let the mixers learn from the chunk.

        A chunk may be scored in several calls, cut at multiples of the mixer's `update_tokens`, with the same result.
        """
        first, last = int(windows.first[0]), int(windows.last[-1])
        measured = self._kraft.choose(first, last, self.config.kraft_positions)
        if self._mixer:
            self._mixer.look(first, last, measured)
        losses = [self._score(batch, measured) for batch in self._batches(windows)]
        self._times.ended("scoring")
        if self._mixer:
            losses.append(self._score_mixture(self._mixer, first, last, measured, chunk_ends))
        if chunk_ends:
            self._finish_chunk(first)
        self._times.ended("mixing")
        return losses

    def adapt(self, chunk: int) -> None:
        """Test-time training on a chunk that has been scored; not after the last one."""
        if self._trainer and chunk + 1 < self.num_chunks:
            self._trainer.adapt(chunk, self.num_chunks)

    def _score(self, batch: Batch, measured: Tensor) -> Losses:
        """Neural and published losses of a batch; the mixer is shown its distributions."""
        totals, published = self._totals, self.published
        totals.add(Totals.BYTES, self.text.target_bytes[batch.positions])
        totals.add(Totals.TOKENS, torch.ones_like(batch.positions))
        neural = neural_terms(batch.logits, self.config.temperature)
        losses = {"neural": neural.log_probs[batch.rows, batch.at.target].neg()}
        if published:
            scores = published.score(neural, batch.rows, batch.at)
            losses["published"] = scores.nll
            totals.add(Totals.LOG_Z, scores.log_z)
            if scores.experts is not None:
                totals.add_experts(scores.experts)
            self._kraft.measure(measured, batch.positions, batch.at, neural, published)
        if self._mixer:
            self._mixer.observe(batch.first, neural.log_probs)
        for name, nll in losses.items():
            totals.add(SCORERS.index(name), nll)
        return Losses(batch.first, losses)

    def _score_mixture(self, mixer: Mixer, first: int, last: int, measured: Tensor, chunk_ends: bool) -> Losses:
        """The mixture's losses of all positions first..last - 1: the same on every rank, so one of them counts."""
        scores = mixer.score(chunk_ends)
        nll = torch.from_numpy(scores.nll).to(measured.device)
        if self.ranks.is_first:
            self._totals.add(Totals.MIXTURE, nll)
        targets = self.text.tokens[scores.measured_at + 1]
        self._kraft.measure_mixture(scores.measured, targets, nll[scores.measured_at - first])
        return Losses(first, {"mixture": nll})

    def _finish_chunk(self, position: int) -> None:
        """Sum over the ranks; move the published mixture's weights, then count the chunk that `position` lies in."""
        published = self.published
        sums = self._totals.finish_chunk(self.ranks, published is not None and published.speaks)
        if published is None:
            return
        if published.speaks:
            means = sums[Totals.EXPERTS :] / sums[Totals.TOKENS]
            published.hedge.update(torch.from_numpy(means).to(self.ranks.device))
        begin = position // self.config.chunk_tokens * self.config.chunk_tokens
        # The last target belongs to the next chunk: it is counted there.
        end = min(begin + self.config.chunk_tokens, self.text.num_targets)
        published.counts.update(self.text.tokens[begin:end])

    def _batches(self, windows: Windows) -> Iterator[Batch]:
        """This rank's share of some windows, a batch at a time."""
        own = self.ranks.share(len(windows))
        size, seq_len = self.config.batch_windows, self.config.seq_len
        device, tokens = self.ranks.device, self.text.tokens
        for begin in range(own.start, own.stop, size):
            part = windows[begin : min(begin + size, own.stop)]
            grid = part.start[:, None] + np.arange(seq_len)
            # What follows the last scored position is padding: it cannot change a prediction.
            rows = tokens[torch.from_numpy(np.minimum(grid, part.last[:, None] - 1)).to(device)]
            row, column = np.nonzero((grid >= part.first[:, None]) & (grid < part.last[:, None]))
            logits = self._logits(rows, torch.from_numpy(row * seq_len + column).to(device))
            scored = grid[row, column]
            positions = torch.from_numpy(scored).to(device)
            before = tokens[(positions - 1).clamp_min(0)].masked_fill(torch.from_numpy(column == 0).to(device), 0)
            at = Positions(tokens[positions], before, tokens[positions + 1])
            yield Batch(int(scored[0]), positions, at, logits)

    def _logits(self, rows: Tensor, flat: Tensor) -> Tensor:
        """Logits [n, vocab] float32 at `flat` [n] of the flattened token rows [windows, seq_len]."""
        if self._compiled:
            # Rows beyond the last window give every batch one shape, which compiles once.
            rows = F.pad(rows, (0, 0, 0, self.config.batch_windows - len(rows)))
        hidden = self._hidden(rows)
        with autocast(self.ranks.device):
            return self._scorer.logits(hidden.flatten(0, 1)[flat]).float()

    def _report(self, chunk: int, elapsed_s: float) -> None:
        bpb = {name: self._totals.bpb(name) for name in self.scorers}
        log_weights = self.published.hedge.log_weights if self.published else torch.empty(0)
        tokens = int(self._totals.all[Totals.TOKENS])
        counted = self.published.counts.tokens if self.published else 0
        shares = self._mixer.ladder.shares() if self._mixer else {}
        self.history.append(ChunkRecord(chunk + 1, tokens, bpb, tuple(log_weights.tolist()), counted, shares))
        weights = torch.softmax(log_weights, dim=0).tolist()
        event = Chunk(
            chunk=chunk + 1,
            total=self.num_chunks,
            bpb_neural=bpb.get("neural"),
            bpb_mixture=bpb.get("mixture"),
            bpb_published=bpb.get("published"),
            weights=dict(zip(EXPERTS, weights, strict=True)) if self.published else {},
            shares=shares,
            elapsed_s=elapsed_s,
            eta_s=elapsed_s / (chunk + 1) * (self.num_chunks - chunk - 1),
        )
        self._emit(event)

    def _result(self, seconds: float, by_phase: dict[str, float]) -> EvalResult:
        totals = self._totals.all
        tokens, mixed = totals[Totals.TOKENS], self._totals.mixed
        scores = {
            name: Score(float(totals[SCORERS.index(name)] / tokens), self._totals.bpb(name)) for name in self.scorers
        }
        experts = {}
        if mixed[Totals.TOKENS]:
            nats = mixed[Totals.EXPERTS :]
            # The fifth expert's "loss" is not a code length, so it has no BPB.
            experts = {name: bits_per_byte(nats[i], mixed[Totals.BYTES]) for i, name in enumerate(EXPERTS[:-1])}
        return EvalResult(
            world_size=self.ranks.world_size,
            device=device_name(self.ranks.device),
            seconds=seconds,
            tokens=int(tokens),
            bytes=float(totals[Totals.BYTES]),
            chunks=self.num_chunks,
            neural=scores["neural"],
            mixture=scores.get("mixture"),
            published=scores.get("published"),
            mean_log_z=float(totals[Totals.LOG_Z] / tokens) if self.published else None,
            expert_bpb=experts,
            kraft=self._kraft.result(),
            history=tuple(self.history),
            repeat_tail=self.config.repeat_tail,
            seconds_by_phase=by_phase,
        )


class PhaseTimes:
    """Seconds of this rank by phase. On CUDA a phase ends with an event in the stream: nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._ends: list[tuple[str, Any]] = []
        """Phases and when they ended: seconds, or on CUDA an event."""

    def start(self) -> None:
        """Begin the first phase."""
        self._ends = [("", self._now())]

    def ended(self, phase: str) -> None:
        """What was done since the phase before it ended, or since the start, was `phase`. Nothing before `start`."""
        if self._ends:
            self._ends.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """By phase, in the order in which they first ended. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        sums: defaultdict[str, float] = defaultdict(float)
        for (_, begin), (phase, end) in pairwise(self._ends):
            sums[phase] += begin.elapsed_time(end) / 1000.0 if self._cuda else end - begin
        return dict(sums)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
