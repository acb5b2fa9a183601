"""The catalogue: every specimen with what it plants and under which condition the audit must find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golf_core.audit.report import (
    CAUSAL,
    DOCUMENTS,
    FORBIDDEN_FILES,
    NETWORK,
    NORMALIZED,
    SCORE_FIRST,
    SINGLE_PASS,
)
from golf_core.audit.scorer import Scorer
from golf_core.audit.specimens import cheats, cheats_passes, honest
from golf_core.audit.specimens.cheats import CheatingOnline, adaptive
from golf_core.audit.specimens.experts import Counts, HashedCounts, Softmax, Static, Uniform
from golf_core.audit.specimens.honest import KindOnline
from golf_core.audit.specimens.online import Online, PlainOnline, RestartableOnline

V, CHUNK = 8, 32
"""Alphabet and chunk of most specimens: small, so that everything can be measured in about a second."""


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

    @property
    def is_honest(self) -> bool:
        """Nothing is planted."""
        return not self.violated


def specimen(name: str) -> Specimen:
    """A specimen by name. Raises `KeyError` for none."""
    return {s.name: s for s in (*violating(), *honest_ones())}[name]


def build(name: str, path: str = "") -> Scorer:
    """A specimen's scorer by name, for another process: `golf_core.audit.specimens.catalogue:build`, a factory."""
    found = specimen(name)
    return found.build(path) if found.reads else found.build()


def violating() -> tuple[Specimen, ...]:
    """The specimens with something planted."""
    return (*_not_normalized(), *_learned_first(), *_looks_ahead(), *_not_once(), *_fenced())


def _not_normalized() -> tuple[Specimen, ...]:
    two, three = (NORMALIZED,), (SCORE_FIRST,)
    return (
        Specimen("target_in_hash", "n-gram cache with the target in the bucket's hash",
                 lambda: CheatingOnline(cheats.TargetHash, V), two, three),
        Specimen("lesser_loss", "minimum of two models' losses on the true token",
                 lambda: CheatingOnline(cheats.LesserLoss, V, learns=False), two),
        Specimen("lesser_loss_adaptive", "the same with models that learn",
                 lambda: CheatingOnline(cheats.LesserLoss, V), two, three),
        Specimen("observed_gate", "mixing gate keyed on the probability of the observed token",
                 lambda: CheatingOnline(cheats.ObservedGate, V, learns=False), two),
        Specimen("byte_mixture", "byte model over tokens that are prefixes of each other",
                 cheats.ByteMixture, two, three),
        Specimen("entropy_expert", "expert whose loss is the model's entropy, weight 0.1",
                 lambda: CheatingOnline(cheats.EntropyExpert, V, CHUNK), two, three),
        Specimen("capped_loss", "no token costs more than ln V",
                 lambda: CheatingOnline(cheats.CappedLoss, V, learns=False), two),
        Specimen("sharpened", "temperature without normalisation after it",
                 lambda: CheatingOnline(cheats.Sharpened, V, learns=False), two),
        Specimen("resets_early", "resets at a document's start before the start is scored",
                 lambda: CheatingOnline(cheats_passes.ResetsEarly, V), two, three),
        Specimen("shows_other_distribution", "shows proper distributions, scores a tenth below them",
                 lambda: cheats.DistributionLiar(V, lambda: adaptive(V)), two, three),
        Specimen("target_chosen_distribution", "shows distributions that each sum to 1 but depend on the token",
                 lambda: cheats.TargetChosen(V, lambda: cheats.fixed(V), mixing="fixed"), two),
    )  # fmt: skip


def _learned_first() -> tuple[Specimen, ...]:
    both = (NORMALIZED, SCORE_FIRST)
    return (
        Specimen("counts_first", "counts a token, then scores it",
                 lambda: CheatingOnline(cheats.CountsFirst, V), (NORMALIZED,), (SCORE_FIRST,)),
        Specimen("counts_recurring_first", "the same, only for pairs that were seen before",
                 lambda: CheatingOnline(cheats.SometimesOwnCount, V), (NORMALIZED,), (SCORE_FIRST,)),
        Specimen("one_too_far", "a chunk's counts reach one token into the next chunk",
                 lambda: CheatingOnline(cheats.OneTooFar, V, CHUNK), both),
        Specimen("pair_too_far", "the pair across a chunk's end is counted with the chunk",
                 lambda: CheatingOnline(cheats.PairTooFar, V, CHUNK), both),
        Specimen("one_too_far_undeclared", "the same, where the chunks are not told to the audit",
                 lambda: cheats.undeclared(CheatingOnline(cheats.OneTooFar, V, CHUNK)), both),
        Specimen("epochs_first", "several epochs over a chunk that is scored afterwards",
                 lambda: CheatingOnline(cheats.EpochsFirst, V, CHUNK), (CAUSAL, *both), (SINGLE_PASS,)),
    )  # fmt: skip


def _looks_ahead() -> tuple[Specimen, ...]:
    all_four = (CAUSAL, NORMALIZED, SCORE_FIRST, SINGLE_PASS)
    return (
        Specimen("adapts_on_text", "adapts on the validation text, quantises, then scores",
                 lambda: cheats_passes.AdaptsOnTheText(V, lambda: [Uniform(V)]), all_four),
        Specimen("two_passes", "scores the first half again after the last token",
                 lambda: cheats_passes.TwoPasses(V, lambda: adaptive(V)), all_four),
        Specimen("two_passes_honest_snapshots", "the same, hidden behind snapshots of a single pass",
                 lambda: cheats_passes.HonestSnapshots(V, lambda: adaptive(V)),
                 all_four),
        Specimen("better_pass", "the better of two passes over the text",
                 lambda: cheats_passes.BetterPass(V), (CAUSAL, SCORE_FIRST, SINGLE_PASS)),
        Specimen("better_pass_in_chunks", "the better of two passes over each chunk",
                 lambda: cheats_passes.BetterPass(V, CHUNK), (CAUSAL, SCORE_FIRST), (SINGLE_PASS,)),
        Specimen("seen_symbols", "a uniform model over the symbols that will occur",
                 lambda: cheats_passes.SeenSymbols(64, lambda: [Uniform(64)]), all_four),
        Specimen("smears_ahead", "mixes the next token into each prediction",
                 lambda: cheats_passes.Smears(V), (CAUSAL,)),
        Specimen("smears_over_chunk_end", "the same at the last token of each chunk alone",
                 lambda: cheats_passes.Smears(V, CHUNK), (CAUSAL,)),
        Specimen("knows_document_ends", "mixing weights that go by the length left of the document",
                 lambda: cheats_passes.KnowsDocumentEnds(V, lambda: adaptive(V)),
                 (CAUSAL, SCORE_FIRST), (SINGLE_PASS,)),
        Specimen("smears_over_document_start", "says it resets at documents, but carries a token over",
                 lambda: cheats_passes.SmearsAcrossStarts(V), (DOCUMENTS,)),
    )  # fmt: skip


def _not_once() -> tuple[Specimen, ...]:
    once = (SINGLE_PASS,)
    return (
        Specimen("keeps_state", "goes on learning from run to run",
                 lambda: cheats_passes.KeepsState(V, lambda: adaptive(V)), once),
        Specimen("dropout", "draws new random numbers in every run",
                 lambda: cheats_passes.Dropout(V, lambda: adaptive(V)), once),
        Specimen("skips_hard", "gives hard tokens no loss",
                 lambda: CheatingOnline(cheats_passes.SkipsHard, V, learns=False), (NORMALIZED, SINGLE_PASS)),
        Specimen("drops_hard", "returns no losses for hard tokens",
                 lambda: cheats_passes.DropsHard(V, lambda: adaptive(V)), once),
        Specimen("repeats_tail", "scores the text's last tokens twice",
                 lambda: cheats_passes.RepeatsTail(V, lambda: adaptive(V)), once),
    )  # fmt: skip


def _fenced() -> tuple[Specimen, ...]:
    return (
        Specimen("reads_training_data", "opens the training data while it evaluates",
                 lambda path: cheats_passes.ReadsTraining(V, path), (FORBIDDEN_FILES,), reads=True),
        Specimen("connects", "opens a connection while it evaluates",
                 lambda: cheats_passes.Connects(V, lambda: adaptive(V)), (NETWORK,)),
    )  # fmt: skip


def honest_ones() -> tuple[Specimen, ...]:
    """The specimens that must pass without one alarm."""
    return (*_plain(), *_mixtures(), *_neural(), *_shapes(), *_sizes())


def _plain() -> tuple[Specimen, ...]:
    return (
        Specimen("uniform", "every symbol alike", lambda: PlainOnline(V, lambda: [Uniform(V)])),
        Specimen("static", "a fixed table", lambda: PlainOnline(V, lambda: [Static(V, 1)])),
        Specimen("counts", "adaptive counts, updated after every token",
                 lambda: PlainOnline(V, lambda: [Counts(V, 0)])),
        Specimen("pairs", "adaptive counts of pairs", lambda: PlainOnline(V, lambda: [Counts(V, 1)])),
        Specimen("decayed", "counts that fade", lambda: PlainOnline(V, lambda: [Counts(V, 1, decay=0.9)])),
        Specimen("cache_in_chunks", "cached n-grams, updated by chunks",
                 lambda: PlainOnline(V, lambda: [Counts(V, 2), Counts(V, 1)], CHUNK)),
        Specimen("hashed_contexts", "trigrams in 5 buckets: collisions merge contexts",
                 lambda: PlainOnline(V, lambda: [HashedCounts(V, 2, 5)])),
        Specimen("escape", "prediction by partial matching with exclusion", lambda: KindOnline(honest.Escape, V)),
        Specimen("wasteful", "sums to 0.9: deficient, and no violation", lambda: KindOnline(honest.WastefulEscape, V)),
        Specimen("sharp", "probabilities up to 1 - 1e-12", lambda: honest.sharp(V)),
        Specimen("impossible", "one symbol has an infinite loss",
                 lambda: KindOnline(honest.Impossible, V + 1), text_vocab=V),
        Specimen("two_symbols", "an alphabet of two", lambda: PlainOnline(2, lambda: [Counts(2, 2), Counts(2, 0)])),
    )  # fmt: skip


def _mixtures() -> tuple[Specimen, ...]:
    return (
        Specimen("bayes", "a mixture weighted token by token", lambda: PlainOnline(V, lambda: adaptive(V))),
        Specimen("hedge_in_chunks", "a mixture weighted by chunks", lambda: PlainOnline(V, lambda: adaptive(V), CHUNK)),
        Specimen("fixed_weights", "a mixture that does not move",
                 lambda: PlainOnline(V, lambda: adaptive(V), mixing="fixed")),
        Specimen("logistic", "logistic mixing, normalised over the alphabet",
                 lambda: PlainOnline(V, lambda: adaptive(V), mixing="logistic")),
        Specimen("entropy_gate", "a gate keyed on the model's own entropy", lambda: KindOnline(honest.EntropyGate, V)),
        Specimen("drawn_experts", "random numbers inside, the same in every run", lambda: KindOnline(honest.Drawn, V)),
        Specimen("document_reset", "forgets everything at a document's start",
                 lambda: PlainOnline(V, lambda: adaptive(V), reset=1)),
    )  # fmt: skip


def _neural() -> tuple[Specimen, ...]:
    return (
        Specimen("float32_steps", "softmax regression in float32, a step after every token",
                 lambda: PlainOnline(V, lambda: [Softmax(V, 3)])),
        Specimen("adapts_in_chunks", "several epochs over a chunk after it was scored",
                 lambda: PlainOnline(V, lambda: [Softmax(V, 3), Counts(V, 1)], CHUNK, epochs=3)),
        Specimen("averaged", "scores with the average of the weights that adapt",
                 lambda: KindOnline(honest.Averaged, V, CHUNK, softmax=True, epochs=2)),
        Specimen("very_sharp_softmax", "temperature 0.1 in float32: losses up to about 60 nats",
                 lambda: PlainOnline(V, lambda: [Softmax(V, 3, temperature=0.1)], CHUNK)),
        Specimen("schedule", "a learning rate that goes by the text's length",
                 lambda: honest.Schedule(V, lambda: [Softmax(V, 3)])),
    )  # fmt: skip


def _shapes() -> tuple[Specimen, ...]:
    return (
        Specimen("context_first", "takes the first token as context: n - 1 losses",
                 lambda: honest.ContextFirst(V, lambda: adaptive(V))),
        Specimen("mutates_input", "overwrites the array that it was given",
                 lambda: honest.Mutates(V, lambda: adaptive(V))),
        Specimen("shows_distributions", "shows the distributions that it scores with",
                 lambda: Online(V, lambda: adaptive(V), CHUNK)),
        Specimen("restartable", "starts from snapshots at multiples of its chunk",
                 lambda: RestartableOnline(V, lambda: adaptive(V), CHUNK)),
        Specimen("several_scores", "two scores from one pass, and snapshots of both",
                 lambda: honest.SeveralScores(V, lambda: adaptive(V))),
        Specimen("published_beside", "a score with the entropy expert beside the one claimed, and its formula",
                 lambda: honest.WithFormula(V, lambda: adaptive(V), CHUNK), options={"claims": ("model",)}),
    )  # fmt: skip


def _sizes() -> tuple[Specimen, ...]:
    fewer = {"positions": 4, "cuts": 2, "checks": 4}
    return (
        Specimen("softmax_4096", "float32 softmax over 4,096 symbols, from snapshots",
                 lambda: honest.LargeRestartable(4096), tokens=64, options=fewer),
        Specimen("softmax_50k_shown", "50,257 symbols, from its distributions",
                 lambda: honest.LargeDistributed(50257), tokens=48, options=fewer),
        Specimen("softmax_50k", "50,257 symbols, plain: estimated sums",
                 lambda: honest.LargeSoftmax(50257, scale=0.3), tokens=32, options={**fewer, "positions": 3}),
        Specimen("softmax_50k_sharp", "the same with few likely symbols, which no estimate can find",
                 lambda: honest.LargeSoftmax(50257), tokens=32, options={**fewer, "positions": 2}),
    )  # fmt: skip


def training_file(folder: Path) -> Path:
    """A file that stands for training data, for the specimen that opens it."""
    path = folder / "training" / "fineweb_train_000000.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not to be read\n")
    return path
