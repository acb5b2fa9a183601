"""The evaluation: chunk by chunk, score all windows, update the mixer, count, adapt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from golf_core.config import EvalConfig
from golf_core.distributed import Ranks
from golf_core.evaluate.adaptation import TestTimeTrainer
from golf_core.evaluate.experts import NeuralTerms, NgramCounts, Positions, expert_nlls, neural_terms
from golf_core.evaluate.hedge import Hedge
from golf_core.evaluate.kraft import KraftMeter
from golf_core.evaluate.windows import Windows, chunk_windows, sliding_windows
from golf_core.events import Event, Listener, ignore
from golf_core.hardware import device_name
from golf_core.model.compute import autocast, hidden_function
from golf_core.model.gpt import GPT
from golf_core.results import EXPERTS, ChunkRecord, EvalResult, Score
from golf_core.text import ValidationText, bits_per_byte

SCORERS = ("neural", "mixture", "published")


@dataclass(frozen=True)
class Batch:
    """Scored positions of some windows: the positions [n] and their logits [n, vocab] float32."""

    positions: Tensor
    at: Positions
    logits: Tensor

    @property
    def rows(self) -> Tensor:
        """0..n - 1: which row of the logits belongs to each position."""
        return torch.arange(len(self.logits), device=self.logits.device)


class Totals:
    """Sums over scored tokens in float64, reduced over the ranks once a chunk.

    Columns: the three scorers' nats, ln Z, bytes, tokens; then the five experts' nats.
    """

    BYTES, TOKENS, EXPERTS = 4, 5, 6

    def __init__(self, device: torch.device) -> None:
        self.chunk = torch.zeros(self.EXPERTS + len(EXPERTS), dtype=torch.float64, device=device)
        self.all = np.zeros(len(self.chunk))
        self.mixed = np.zeros(len(self.chunk))

    def add(self, scores: list[Tensor], target_bytes: Tensor, nlls: Tensor | None) -> None:
        """Add a batch: scorers' nats and ln Z [n] each, bytes [n], and the experts' nlls [n, 5] if mixing."""
        columns = [s.double().sum() for s in scores]
        columns += [target_bytes.sum(), columns[0].new_tensor(float(target_bytes.numel()))]
        self.chunk[: self.EXPERTS] += torch.stack(columns)
        if nlls is not None:
            self.chunk[self.EXPERTS :] += nlls.double().sum(dim=0)

    def finish_chunk(self, ranks: Ranks, mixing: bool) -> np.ndarray:
        """The chunk's sums over all ranks, added to the totals; the next chunk starts from zero."""
        sums = ranks.sum_(self.chunk).cpu().numpy().copy()
        self.chunk.zero_()
        self.all += sums
        if mixing:
            self.mixed += sums
        return sums

    def bpb(self, scorer: int) -> float:
        """Running BPB of a scorer (index into `SCORERS`)."""
        return bits_per_byte(self.all[scorer], self.all[self.BYTES])


class Evaluator:
    """One evaluation of `model` on this rank. `run()` gives the same figures on any number of ranks."""

    def __init__(
        self,
        model: GPT,
        config: EvalConfig,
        text: ValidationText,
        ranks: Ranks,
        listener: Listener = ignore,
        compiled: bool = False,
    ) -> None:
        self.config, self.text, self.ranks = config, text, ranks
        self._emit = listener if ranks.is_first else ignore
        self._vocab = model.config.vocab_size
        self._trainer = TestTimeTrainer(model, config, text, ranks, compiled) if config.ttt else None
        self._scorer = self._trainer.scorer if self._trainer else model
        self._compiled = compiled
        self._hidden = hidden_function(self._scorer, ranks.device, compiled)
        self._counts = NgramCounts(self._vocab, config.trigram_buckets, config.count_smoothing, ranks.device)
        self._hedge = Hedge(config.neural_log_weight, config.hedge_eta, ranks.device)
        self._kraft = KraftMeter(ranks)
        self._totals = Totals(ranks.device)
        self._windows = sliding_windows(text.num_targets, config.seq_len, config.stride, config.repeat_tail)
        self.num_chunks = -(-text.num_targets // config.chunk_tokens)
        self.history: list[ChunkRecord] = []

    @property
    def mixing(self) -> bool:
        """Whether enough tokens have been counted for the mixer to speak."""
        return self.config.hedge and self._counts.tokens >= self.config.hedge_min_tokens

    def run(self, began: float | None = None) -> EvalResult:
        """Evaluate the whole text. `began` (perf_counter) lets the time include what came before, such as loading."""
        began = time.perf_counter() if began is None else began
        self._emit(Event("phase_started", {"phase": "evaluate", "total": self.num_chunks}))
        for chunk in range(self.num_chunks):
            self.score_chunk(chunk)
            if self._trainer and chunk + 1 < self.num_chunks:
                self._trainer.adapt(chunk, self.num_chunks)
            self._report(chunk, time.perf_counter() - began)
        seconds = self.ranks.agree([time.perf_counter() - began])[0]
        result = self._result(seconds)
        figures = {f"bpb_{name}": self._totals.bpb(i) for i, name in enumerate(self._scorer_names)}
        self._emit(Event("phase_finished", {"phase": "evaluate", "seconds": seconds, **figures}))
        return result

    @torch.no_grad()
    def score_chunk(self, chunk: int) -> None:
        """Score a chunk's windows, then update the mixer's weights and the counts with it."""
        mixing = self.mixing
        windows = chunk_windows(self._windows, chunk, self.config.chunk_tokens)
        measured = self._kraft.choose(windows, self.config.kraft_positions)
        for batch in self._batches(windows):
            if mixing:
                neural = neural_terms(batch.logits, self.config.temperature)
                nlls = expert_nlls(neural, batch.rows, self._counts, batch.at)
                scores = self._mixed_scores(neural, nlls)
                self._kraft.measure(measured, batch.positions, batch.at, neural, self._counts, self._hedge)
            else:
                nlls, scores = None, self._neural_scores(batch)
            self._totals.add(scores, self.text.target_bytes[batch.positions], nlls)
        sums = self._totals.finish_chunk(self.ranks, mixing)
        if mixing:
            means = sums[Totals.EXPERTS :] / sums[Totals.TOKENS]
            self._hedge.update(torch.from_numpy(means).to(self.ranks.device))
        if self.config.hedge:
            begin = chunk * self.config.chunk_tokens
            # The last target belongs to the next chunk: it is counted there.
            end = min(begin + self.config.chunk_tokens, self.text.num_targets)
            self._counts.update(self.text.tokens[begin:end])

    def _mixed_scores(self, neural: NeuralTerms, nlls: Tensor) -> list[Tensor]:
        """Nats of the three scorers and ln Z, [n] each, from the experts' nlls [n, 5]."""
        hedge = self._hedge
        log_z = hedge.log_z(neural.entropy, self._vocab)
        return [nlls[:, 0], hedge.mixture_nll(nlls), hedge.published_nll(nlls), log_z]

    def _neural_scores(self, batch: Batch) -> list[Tensor]:
        """The same while the neural expert stands alone: all scorers agree, and Z is 1."""
        nll = F.cross_entropy(batch.logits / self.config.temperature, batch.at.target, reduction="none")
        return [nll, nll, nll, torch.zeros_like(nll)]

    def _batches(self, windows: Windows) -> Iterator[Batch]:
        """This rank's share of a chunk's windows, a batch at a time."""
        own = self.ranks.share(len(windows))
        size, seq_len = self.config.batch_windows, self.config.seq_len
        device, tokens = self.ranks.device, self.text.tokens
        for begin in range(own.start, own.stop, size):
            part = windows[begin : min(begin + size, own.stop)]
            grid = part.start[:, None] + np.arange(seq_len)
            # Positions beyond the text are padding: what follows a position cannot change its prediction. Rows
            # beyond the last window give every batch one shape, which compiles once.
            rows = np.zeros((size if self._compiled else len(part), seq_len), dtype=np.int64)
            rows[: len(part)] = np.minimum(grid, self.text.num_targets - 1)
            hidden = self._hidden(tokens[torch.from_numpy(rows).to(device)])
            scored = (grid >= part.first[:, None]) & (grid < part.last[:, None])
            row, column = np.nonzero(scored)
            flat = torch.from_numpy(row * seq_len + column).to(device)
            positions = torch.from_numpy(grid[scored]).to(device)
            with autocast(device):
                logits = self._scorer.logits(hidden.flatten(0, 1)[flat]).float()
            before = tokens[(positions - 1).clamp_min(0)].masked_fill(torch.from_numpy(column == 0).to(device), 0)
            yield Batch(positions, Positions(tokens[positions], before, tokens[positions + 1]), logits)

    @property
    def _scorer_names(self) -> tuple[str, ...]:
        return SCORERS if self.config.hedge else SCORERS[:1]

    def _report(self, chunk: int, elapsed_s: float) -> None:
        bpb = {name: self._totals.bpb(i) for i, name in enumerate(self._scorer_names)}
        weights = tuple(self._hedge.log_weights.tolist()) if self.config.hedge else ()
        tokens = int(self._totals.all[Totals.TOKENS])
        self.history.append(ChunkRecord(chunk + 1, tokens, bpb, weights, self._counts.tokens))
        shares = torch.softmax(self._hedge.log_weights, dim=0).tolist()
        fields = {
            "chunk": chunk + 1,
            "total": self.num_chunks,
            **{f"bpb_{name}": value for name, value in bpb.items()},
            "weights": dict(zip(EXPERTS, shares, strict=True)) if self.config.hedge else {},
            "elapsed_s": elapsed_s,
            "eta_s": elapsed_s / (chunk + 1) * (self.num_chunks - chunk - 1),
        }
        self._emit(Event("chunk", fields))

    def _result(self, seconds: float) -> EvalResult:
        totals = self._totals.all
        tokens, mixed = totals[Totals.TOKENS], self._totals.mixed
        scores = {
            name: Score(float(totals[i] / tokens), self._totals.bpb(i)) for i, name in enumerate(self._scorer_names)
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
            mean_log_z=float(totals[3] / tokens) if self.config.hedge else None,
            expert_bpb=experts,
            kraft=self._kraft.result(),
            history=tuple(self.history),
            repeat_tail=self.config.repeat_tail,
        )
