"""What each stage leaves behind: typed, saved as JSON, read back by the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Method = Literal["as quantised", "recoded", "fitted"]
"""How weights were made to fit: not at all, by stronger coding of the same values, by new widths."""
MIB = 1024 * 1024
SCORER_MEANINGS = {
    "neural": "BPB of the adapted model alone",
    "mixture": "BPB of the valid mixture: the one score that a claim may use",
    "published": "the earlier record's mixture: not a code length",
}
SCORERS = tuple(SCORER_MEANINGS)
"""The scores of an evaluation: `EvalResult` has a field of each name."""
CODE_LENGTHS = ("neural", "mixture")
"""Those whose probabilities sum to one."""
EXPERTS = ("neural", "unigram", "bigram", "trigram", "entropy")
"""The record's five experts in the order of their weights; the last is not a probability distribution."""


@dataclass(frozen=True)
class DataRecord:
    """Which data a run saw."""

    path: str
    tokenizer: str
    tokenizer_sha256: str
    train_tokens: int
    val_tokens: int
    """Tokens in the validation shards, before the cut to whole rows."""
    checksums: Mapping[str, str]
    """SHA-256 of each shard, by file name."""


@dataclass(frozen=True)
class TrainResult:
    """The training stage."""

    seed: int
    world_size: int
    device: str
    parameters: int
    steps: int
    train_seconds: float
    """The clock of the challenge: warm-up and validation excluded, all else included."""
    warmup_seconds: float
    validation_seconds: float
    ms_per_step: float
    tokens_per_second: float
    train_loss: float
    """Loss of the last step, nats a token."""
    val_loss: float
    """Loss of the averaged (EMA) weights in full precision on whole validation rows, nats a token."""
    val_bpb: float
    qat_onset_step: int | None
    peak_memory_mib: float
    """Largest over the ranks: GPU memory allocated, or resident memory on a CPU."""
    resumed_at_steps: tuple[int, ...] = ()
    """Steps after which training was resumed from a snapshot; its clock went on from there. Empty: in one go."""


@dataclass(frozen=True)
class ExportResult:
    """The artifact as it lies on disk."""

    weight_bytes: int
    code_bytes: int
    """Size of the one-file program that ships beside the weights."""
    sha256: str
    """SHA-256 of the weights file."""
    export_seconds: float
    bytes_by_kind: Mapping[str, int]
    """Bytes before compression by storage kind (int6, int8, float16, grid)."""
    cap_bytes: int | None = None
    """What code and weights together had to fit; None: no cap."""
    method: Method = "as quantised"
    bytes_by_group: Mapping[str, int] = field(default_factory=dict)
    """The weights file's bytes, shared out by the code length of each group of tensors."""
    bits_per_weight: Mapping[str, float] = field(default_factory=dict)
    """The same for each weight of a group."""
    zero_share: float | None = None
    """Share of zeros among the integers that are stored, 0 to 1."""
    distortion: float | None = None
    """Expected rise of the loss by the quantisation, nats a token; known where the widths were chosen."""

    @property
    def total_bytes(self) -> int:
        """Code and weights: what the challenge caps at 16,000,000."""
        return self.weight_bytes + self.code_bytes

    @property
    def summary(self) -> str:
        """How the weights are stored, in a line."""
        text: str = self.method
        if self.bits_per_weight:
            shown = ", ".join(f"{group} {bits:.2f}" for group, bits in self.bits_per_weight.items())
            text += f"; bits a weight: {shown}"
        if self.distortion is not None:
            text += f"; expected loss +{self.distortion:.5f} nats"
        return text


@dataclass(frozen=True)
class Score:
    """One scorer's figure over the whole validation text."""

    nats_per_token: float
    bpb: float


@dataclass(frozen=True)
class ChunkRecord:
    """State after one chunk of the evaluation."""

    chunk: int
    """Counted from 1."""
    tokens: int
    """Scored so far."""
    bpb: Mapping[str, float]
    """Running BPB of each scorer."""
    log_weights: tuple[float, ...]
    """Logarithms of the weights of the record's five experts, after this chunk's update; empty without the mixer."""
    tokens_counted: int
    shares: Mapping[str, float] = field(default_factory=dict)
    """Weights of the mixture's last step after this chunk."""


@dataclass(frozen=True)
class KraftSums:
    """Sums of probability over the whole vocabulary, measured at a sample of positions in every chunk."""

    positions: int
    neural_max_error: float
    """Largest |sum - 1|."""
    mixture_max_error: float
    """The same for the mixture, or how far its score is from its own distribution, if that is more."""
    published_mean_sum: float
    published_formula_max_error: float
    """Largest relative difference between the published mixture's measured sum and 1 + w(V exp(-H) - 1)."""
    published_positions: int = 0
    """Number of the positions at which the published mixture was more than the neural expert."""


@dataclass(frozen=True)
class EvalResult:
    """The evaluation stage: three scores from the same logits in one pass."""

    world_size: int
    device: str
    seconds: float
    tokens: int
    """Scored, each once."""
    bytes: float
    chunks: int
    neural: Score
    """The adapted model alone."""
    mixture: Score | None
    """The valid mixture: the one score that a claim may use. None without the mixer."""
    published: Score | None
    """The record's five experts. Not a code length."""
    mean_log_z: float | None
    """Mean of ln Z (nats a token): what `published` leaves out of an honest code length."""
    expert_bpb: Mapping[str, float]
    """Each of the record's experts alone over the tokens scored since its mixer started, the neural one too."""
    kraft: KraftSums | None
    history: tuple[ChunkRecord, ...]
    repeat_tail: bool
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    """Seconds of rank 0, which waits for its fellows in the phase that needs them: reading the artifact and the text
    (`loading`), the model's losses (`scoring`), the mixtures' (`mixing`), test-time training (`adaptation`). What is
    left of `seconds` went into reports."""

    @property
    def scores(self) -> dict[str, Score]:
        """Those of `SCORERS` that were computed, by name."""
        return {name: score for name in SCORERS if (score := getattr(self, name)) is not None}

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens a second, adaptation included."""
        return self.tokens / self.seconds

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per scored token, which turns nats a token into BPB."""
        return self.bytes / self.tokens


@dataclass(frozen=True)
class AuditRecord:
    """What an audit of the evaluation found, in short; the whole report lies beside it (audit.json)."""

    positions: int
    """At which the sums over the vocabulary were measured, token by token."""
    tokens: int
    """Tokens of the text's beginning, on which the evaluation was run again and again."""
    seconds: float
    violated: tuple[str, ...]
    """Names of the conditions that the mixture does not meet, or that could not be decided."""
    mixture_max_error: float
    """Largest |sum - 1|."""
    neural_max_error: float
    published_sum: float
    """The largest sum of the record's mixture."""
    published_formula: float
    """What 1 + w(V exp(-H) - 1) says it is there."""
    published_formula_max_error: float
    """Largest relative difference of the two."""
