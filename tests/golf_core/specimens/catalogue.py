"""The catalogue: every specimen with what it plants and under which condition the audit must find it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golf_core.audit.isolation import Surroundings, audit_named
from golf_core.audit.report import (
    CAUSAL,
    DOCUMENTS,
    FORBIDDEN_FILES,
    NETWORK,
    NORMALIZED,
    SCORE_FIRST,
    SINGLE_PASS,
    AuditOptions,
    AuditReport,
)
from golf_core.audit.scorer import Scorer, ScorerSpec, declared
from golf_core.audit.text import synthetic_tokens
from specimens import cheats, honest
from specimens.experts import Counts, HashedCounts, Match, Softmax, Static, Uniform, adaptive, fixed, fixed_first
from specimens.online import Online, PlainOnline, RestartableOnline, Run

V, CHUNK = 8, 32
"""Alphabet and chunk of most specimens: small, so that everything can be measured in about a second."""
OPTIONS = AuditOptions(positions=14, cuts=5)


@dataclass(frozen=True)
class Specimen:
    """One scorer and what is known about it."""

    name: str
    what: str
    build: Callable[..., Scorer]
    """Takes a `path` (a file that stands for training data) where `reads` is set."""
    violated: tuple[str, ...] = ()
    """Conditions that the audit must find violated: these and no others. None for an honest scorer."""
    undecided: tuple[str, ...] = ()
    """Conditions that measurements cannot tell from those violated."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `AuditOptions` that differ from the catalogue's."""
    tokens: int = 160
    text_vocab: int | None = None
    """Alphabet of the text, where the scorer's has symbols that never come."""
    reads: bool = False


def build(name: str, path: str = "") -> Scorer:
    """A specimen's scorer by name, for another process: `specimens.catalogue:build`, a factory."""
    found = BY_NAME[name]
    return found.build(path) if found.reads else found.build()


def audit_specimen(specimen: Specimen, folder: Path, isolate: bool) -> AuditReport:
    """The audit of one specimen, in isolation from a file in `folder` that stands for training data."""
    path = folder / "training" / "fineweb_train_000000.bin"
    path.parent.mkdir()
    path.write_bytes(b"not to be read\n")
    spec = ScorerSpec("specimens.catalogue:build", factory=True, arguments={"name": specimen.name, "path": str(path)})
    vocab = declared(spec.build()[0], "vocab_size")
    tokens = synthetic_tokens(specimen.tokens, specimen.text_vocab or vocab, seed=0)
    options = dataclasses.replace(OPTIONS, **specimen.options)
    return audit_named(spec, tokens, options, Surroundings(isolate=isolate, forbidden=(path.parent,)))


def _learning(kind: type[Run], period: int = 1, experts: Any = adaptive, **options: Any) -> Online:
    """A mixture that learns, with runs of that kind."""
    return PlainOnline(V, experts, period, kind=kind, **options)


def _still(kind: type[Run]) -> Online:
    """A mixture that does not learn, with runs of that kind."""
    return PlainOnline(V, fixed, mixing="fixed", kind=kind)


_NORMALIZED, _CAUSAL, _ONCE = (NORMALIZED,), (CAUSAL,), (SINGLE_PASS,)
_MAYBE_FIRST = (SCORE_FIRST,)
_LEARNED_FIRST = (NORMALIZED, SCORE_FIRST)
_ALL_FOUR = (CAUSAL, NORMALIZED, SCORE_FIRST, SINGLE_PASS)

VIOLATING = (
    # No distribution.
    Specimen("target_in_hash", "n-gram cache with the target in the bucket's hash",
             lambda: _learning(cheats.TargetHash), _NORMALIZED, _MAYBE_FIRST),
    Specimen("lesser_loss", "minimum of two models' losses on the true token",
             lambda: _still(cheats.LesserLoss), _NORMALIZED),
    Specimen("lesser_loss_adaptive", "the same with models that learn",
             lambda: _learning(cheats.LesserLoss), _NORMALIZED, _MAYBE_FIRST),
    Specimen("observed_gate", "mixing gate keyed on the probability of the observed token",
             lambda: _still(cheats.ObservedGate), _NORMALIZED),
    Specimen("byte_mixture", "byte model over tokens that are prefixes of each other",
             cheats.ByteMixture, _NORMALIZED, _MAYBE_FIRST),
    Specimen("entropy_expert", "expert whose loss is the model's entropy, weight 0.1",
             lambda: _learning(cheats.EntropyExpert, CHUNK), _NORMALIZED, _MAYBE_FIRST),
    Specimen("capped_loss", "no token costs more than ln V",
             lambda: _still(cheats.CappedLoss), _NORMALIZED),
    Specimen("sharpened", "temperature without normalisation after it",
             lambda: _still(cheats.Sharpened), _NORMALIZED),
    Specimen("resets_early", "resets at a document's start before the start is scored",
             lambda: _learning(cheats.ResetsEarly), _NORMALIZED, _MAYBE_FIRST),
    Specimen("shows_other_distribution", "shows proper distributions, scores a tenth below them",
             lambda: cheats.DistributionLiar(V, adaptive), _NORMALIZED, _MAYBE_FIRST),
    Specimen("target_chosen_distribution", "shows distributions that each sum to 1 but depend on the token",
             lambda: cheats.TargetChosen(V, fixed, mixing="fixed"), _NORMALIZED),
    # Learned first.
    Specimen("counts_first", "counts a token, then scores it",
             lambda: _learning(cheats.CountsFirst), _NORMALIZED, _MAYBE_FIRST),
    Specimen("counts_recurring_first", "the same, only for pairs that were seen before",
             lambda: _learning(cheats.SometimesOwnCount), _NORMALIZED, _MAYBE_FIRST),
    Specimen("one_too_far", "a chunk's counts reach one token into the next chunk",
             lambda: _learning(cheats.OneTooFar, CHUNK), _LEARNED_FIRST),
    Specimen("pair_too_far", "the pair across a chunk's end is counted with the chunk",
             lambda: _learning(cheats.PairTooFar, CHUNK), _LEARNED_FIRST),
    Specimen("one_too_far_undeclared", "the same, where the chunks are not told to the audit",
             lambda: cheats.undeclared(_learning(cheats.OneTooFar, CHUNK)), _LEARNED_FIRST),
    Specimen("epochs_first", "several epochs over a chunk that is scored afterwards",
             lambda: _learning(cheats.EpochsFirst, CHUNK), (CAUSAL, *_LEARNED_FIRST), (SINGLE_PASS,)),
    # A look ahead.
    Specimen("adapts_on_text", "adapts on the validation text, quantises, then scores",
             lambda: cheats.AdaptsOnTheText(V, lambda v: [Uniform(v)]), _ALL_FOUR),
    Specimen("two_passes", "scores the first half again after the last token",
             lambda: cheats.TwoPasses(V, adaptive), _ALL_FOUR),
    Specimen("two_passes_honest_snapshots", "the same, hidden behind snapshots of a single pass",
             lambda: cheats.HonestSnapshots(V, adaptive), _ALL_FOUR),
    Specimen("better_pass", "the better of two passes over the text",
             lambda: cheats.BetterPass(V), (CAUSAL, SCORE_FIRST, SINGLE_PASS)),
    Specimen("better_pass_in_chunks", "the better of two passes over each chunk",
             lambda: cheats.BetterPass(V, CHUNK), (CAUSAL, SCORE_FIRST), (SINGLE_PASS,)),
    Specimen("seen_symbols", "a uniform model over the symbols that will occur", cheats.SeenSymbols, _ALL_FOUR),
    Specimen("smears_ahead", "mixes the next token into each prediction",
             lambda: _learning(cheats.Smears), _CAUSAL),
    Specimen("smears_over_chunk_end", "the same at the last token of each chunk alone",
             lambda: _learning(cheats.Smears, CHUNK), _CAUSAL),
    Specimen("knows_document_ends", "mixing weights that go by the length left of the document",
             lambda: _learning(cheats.KnowsDocumentEnds), (CAUSAL, SCORE_FIRST), (SINGLE_PASS,)),
    Specimen("smears_over_document_start", "says it resets at documents, but carries a token over",
             lambda: _learning(cheats.SmearsAcrossStarts, experts=lambda v: [Counts(v, 0), Counts(v, 1)], reset=1),
             (DOCUMENTS,)),
    # Not once.
    Specimen("keeps_state", "goes on learning from run to run", lambda: cheats.KeepsState(V, adaptive), _ONCE),
    Specimen("dropout", "draws new random numbers in every run", lambda: cheats.Altered(V, cheats.dropout), _ONCE),
    Specimen("skips_hard", "gives hard tokens no loss",
             lambda: _still(cheats.SkipsHard), (NORMALIZED, SINGLE_PASS)),
    Specimen("drops_hard", "returns no losses for hard tokens",
             lambda: cheats.Altered(V, cheats.drops_hard), _ONCE),
    Specimen("repeats_tail", "scores the text's last tokens twice",
             lambda: cheats.Altered(V, cheats.repeats_tail), _ONCE),
    # Out of bounds.
    Specimen("reads_training_data", "opens the training data while it evaluates",
             lambda path: cheats.ReadsTraining(V, path), (FORBIDDEN_FILES,), reads=True),
    Specimen("connects", "opens a connection while it evaluates", lambda: cheats.Connects(V, adaptive), (NETWORK,)),
)  # fmt: skip

_FEWER = {"positions": 4, "cuts": 2, "checks": 4}

HONEST = (
    # Plain.
    Specimen("uniform", "every symbol alike", lambda: PlainOnline(V, lambda v: [Uniform(v)])),
    Specimen("static", "a fixed table", lambda: PlainOnline(V, lambda v: [Static(v, 1)])),
    Specimen("counts", "adaptive counts, updated after every token", lambda: PlainOnline(V, lambda v: [Counts(v, 0)])),
    Specimen("pairs", "adaptive counts of pairs", lambda: PlainOnline(V, lambda v: [Counts(v, 1)])),
    Specimen("decayed", "counts that fade", lambda: PlainOnline(V, lambda v: [Counts(v, 1, decay=0.9)])),
    Specimen("cache_in_chunks", "cached n-grams, updated by chunks",
             lambda: PlainOnline(V, lambda v: [Counts(v, 2), Counts(v, 1)], CHUNK)),
    Specimen("hashed_contexts", "trigrams in 5 buckets: collisions merge contexts",
             lambda: PlainOnline(V, lambda v: [HashedCounts(v, 2, 5)])),
    Specimen("escape", "prediction by partial matching with exclusion",
             lambda: _learning(honest.Escape, experts=fixed_first)),
    Specimen("wasteful", "sums to 0.9: deficient, and no violation",
             lambda: _learning(honest.WastefulEscape, experts=fixed_first)),
    Specimen("sharp", "probabilities up to 1 - 1e-12",
             lambda: PlainOnline(V, lambda v: [Match(v, doubt=1e-12)], mixing="fixed")),
    Specimen("impossible", "one symbol has an infinite loss",
             lambda: PlainOnline(V + 1, fixed_first, kind=honest.Impossible), text_vocab=V),
    Specimen("two_symbols", "an alphabet of two", lambda: PlainOnline(2, lambda v: [Counts(v, 2), Counts(v, 0)])),
    # Mixtures.
    Specimen("bayes", "a mixture weighted token by token", lambda: PlainOnline(V, adaptive)),
    Specimen("hedge_in_chunks", "a mixture weighted by chunks", lambda: PlainOnline(V, adaptive, CHUNK)),
    Specimen("fixed_weights", "a mixture that does not move", lambda: PlainOnline(V, adaptive, mixing="fixed")),
    Specimen("logistic", "logistic mixing, normalised over the alphabet",
             lambda: PlainOnline(V, adaptive, mixing="logistic")),
    Specimen("entropy_gate", "a gate keyed on the model's own entropy",
             lambda: _learning(honest.EntropyGate, experts=fixed_first)),
    Specimen("drawn_experts", "random numbers inside, the same in every run",
             lambda: _learning(honest.Drawn, experts=fixed_first)),
    Specimen("document_reset", "forgets everything at a document's start", lambda: PlainOnline(V, adaptive, reset=1)),
    # Neural.
    Specimen("float32_steps", "softmax regression in float32, a step after every token",
             lambda: PlainOnline(V, lambda v: [Softmax(v, 3)])),
    Specimen("adapts_in_chunks", "several epochs over a chunk after it was scored",
             lambda: PlainOnline(V, lambda v: [Softmax(v, 3), Counts(v, 1)], CHUNK, epochs=3)),
    Specimen("averaged", "scores with the average of the weights that adapt",
             lambda: _learning(honest.Averaged, CHUNK, experts=lambda v: [Softmax(v, 3)], epochs=2)),
    Specimen("very_sharp_softmax", "temperature 0.1 in float32: losses up to about 60 nats",
             lambda: PlainOnline(V, lambda v: [Softmax(v, 3, temperature=0.1)], CHUNK)),
    Specimen("schedule", "a learning rate that goes by the text's length",
             lambda: honest.Schedule(V, lambda v: [Softmax(v, 3)])),
    # Of another shape.
    Specimen("context_first", "takes the first token as context: n - 1 losses",
             lambda: cheats.Altered(V, lambda losses: losses[1:])),
    Specimen("mutates_input", "overwrites the array that it was given", lambda: honest.Mutates(V, adaptive)),
    Specimen("shows_distributions", "shows the distributions that it scores with", lambda: Online(V, adaptive, CHUNK)),
    Specimen("restartable", "starts from snapshots at multiples of its chunk",
             lambda: RestartableOnline(V, adaptive, CHUNK)),
    Specimen("several_scores", "two scores from one pass, and snapshots of both",
             lambda: honest.SeveralScores(V, adaptive)),
    Specimen("published_beside", "a score with the entropy expert beside the one claimed, and its formula",
             lambda: honest.WithFormula(V, adaptive, CHUNK), options={"claims": ("model",)}),
    # Of other sizes.
    Specimen("softmax_4096", "float32 softmax over 4,096 symbols, from snapshots",
             lambda: honest.LargeRestartable(4096), tokens=64, options=_FEWER),
    Specimen("softmax_50k_shown", "50,257 symbols, from its distributions",
             lambda: honest.LargeDistributed(50257), tokens=48, options=_FEWER),
    Specimen("softmax_50k", "50,257 symbols, plain: estimated sums",
             lambda: honest.LargeSoftmax(50257, scale=0.3), tokens=32, options={**_FEWER, "positions": 3}),
    Specimen("softmax_50k_sharp", "the same with few likely symbols, which no estimate can find",
             lambda: honest.LargeSoftmax(50257), tokens=32, options={**_FEWER, "positions": 2}),
)  # fmt: skip
BY_NAME = {s.name: s for s in (*VIOLATING, *HONEST)}
