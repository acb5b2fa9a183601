"""What an audit is asked, and what it answers: frozen values, saved as JSON through `golf_core.strict_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "violated", "undecided", "not measured"]
"""`undecided`: something is wrong, and measurements from outside cannot tell whether this condition is at fault."""

CAUSAL = "1 causal"
NORMALIZED = "2 normalised"
SCORE_FIRST = "3 score before update"
SINGLE_PASS = "4 single pass"
DOCUMENTS = "documents apart"
BYTES = "byte count"
ARTIFACT = "artifact size"
CLOCKS = "clocks"
NETWORK = "no network"
FORBIDDEN_FILES = "no training data"

PARTS = ("repeat", "prefix", "causal", "kraft", "distributions", "documents")
"""What `audit` measures; every run of it begins with one plain run of the scorer."""


@dataclass(frozen=True)
class AuditOptions:
    """How much is measured, where, and how closely. Defaults suit a scorer that takes milliseconds a run."""

    parts: tuple[str, ...] = PARTS
    vocab_size: int | None = None
    """Size of the alphabet; None: as the scorer declares it, else the largest token + 1."""
    chunk_tokens: int | None = None
    """Where the scorer's chunks begin; None: as the scorer declares it."""
    bos: int = 1
    """The token that begins a document."""
    positions: int = 24
    """Positions at which sums are measured, drawn over the kinds of places."""
    cuts: int = 8
    """Places from which later tokens are changed, with plain runs from the start."""
    checks: int = 16
    """Random (position, substitute) pairs at which a fast path is compared with the plain scorer."""
    seed: int = 0
    exact: bool = False
    """Sum over the whole alphabet however large it is."""
    exact_limit: int = 4096
    """Alphabets up to this size are summed exactly, larger ones estimated from so many symbols at the most."""
    strata: int = 4
    """Estimate: groups into which the less likely symbols are divided."""
    estimate_margin: float = 0.1
    """An estimate whose interval reaches further from 1 than this, on both sides of it, says nothing."""
    kraft_tolerance: float = 1e-4
    loss_tolerance: float = 1e-5
    """Two losses agree when they differ by no more than this many nats plus this share of the loss."""
    time_budget_s: float | None = None
    """Measurements stop when this is used up; the report says what was left out."""
    claims: tuple[str, ...] = ()
    """Names of the losses that the overall verdict goes by; empty: all of them."""


@dataclass(frozen=True)
class Condition:
    """One condition, for one of the scorer's losses (`score`) or for the scorer as a whole (None)."""

    name: str
    score: str | None
    verdict: Verdict
    summary: str


@dataclass(frozen=True)
class KraftSum:
    """The sum of exp(-loss) over the alphabet at one position, for one of the scorer's losses."""

    score: str
    position: int
    where: tuple[str, ...]
    total: float
    low: float
    """Lower end of the 99.9 % interval of an estimate; equal to `total` where the sum is exact."""
    high: float
    exact: bool
    symbols: int
    """How many symbols took the token's place."""
    free_symbols: int
    """How many of them cost nothing (within the tolerance): more than one says that the token is not scored."""
    method: Literal["plain", "snapshot", "distribution"]
    expected: float | None = None
    """What a formula of the scorer says the sum is."""


@dataclass(frozen=True)
class Influence:
    """Losses before `cut` that changed when tokens from `cut` on did."""

    score: str
    cut: int
    where: tuple[str, ...]
    change: str
    single: bool
    """Only the token at `cut` was changed."""
    first: int
    """First position whose loss changed."""
    last: int
    count: int
    difference: float
    """Largest change in nats."""


@dataclass(frozen=True)
class CausalEvidence:
    """How much was tried to make later tokens change earlier losses, and what did."""

    runs: int
    snapshot_runs: int
    largest_difference: Mapping[str, float]
    """Nats by which each of the scorer's losses differed at the most, over all runs."""
    influences: tuple[Influence, ...]
    """The largest of those beyond the tolerance."""
    influence_count: int


@dataclass(frozen=True)
class Repeatability:
    """The same text again: on the same object, after another text, and from a fresh start."""

    same_object: float
    """Largest difference in nats of a second run at once."""
    after_other_text: float
    fresh: float | None
    """Between two fresh scorers; None where none can be made."""
    fresh_against_first: float | None
    keeps_state: bool
    random: bool
    remembers: Mapping[str, bool]
    """Whether tokens bear on losses beyond their context, for each of the losses: if not, nothing is learned."""
    prefix: float | None
    """Largest difference of the losses of a prefix scored alone; not a violation in itself."""
    prefix_tokens: int | None

    @property
    def noise(self) -> float:
        """How far losses move by themselves, in nats: 0 for a scorer that can be renewed to a fixed start."""
        return max(self.same_object, self.after_other_text, self.fresh or 0.0) if self.random else 0.0


@dataclass(frozen=True)
class FastPath:
    """Whether snapshots agree with the plain scorer, run from the start on the same changed text."""

    checked: int
    largest_difference: float
    base_difference: float
    """Against the plain losses of the unchanged text, over all that the snapshots cover."""
    unchanged: float
    """Difference between a snapshot's first and last answer to the same question."""
    trusted: bool


@dataclass(frozen=True)
class DistributionEvidence:
    """Whether the distributions that a scorer gives are those that it scores with. Largest differences in nats."""

    positions: int
    against_losses: Mapping[str, float]
    """ln p of the realised tokens against the losses."""
    substituted: Mapping[str, float]
    """Plain losses of other symbols at a place against the distributions that they meet there."""
    own_token: Mapping[str, float]
    """Change of the distribution at a position when the token there changes."""
    later_tokens: Mapping[str, float]
    """Change of the distribution at a position when tokens after it change."""
    checked: int

    def fixed(self, score: str, tolerance: float) -> bool:
        """Whether the distribution is the same whatever the token is, within `tolerance` nats."""
        return self.own_token[score] <= tolerance

    def scored_with(self, score: str, tolerance: float) -> bool:
        """Whether the losses are those of the distributions shown, within `tolerance` nats."""
        return max(self.substituted[score], self.against_losses[score]) <= tolerance


@dataclass(frozen=True)
class ByteEvidence:
    """The denominator of bits per byte, recounted from decoded text."""

    tokens: int
    documents: int
    scored_from: int
    """First token whose bytes count: 1 where the first token is context only."""
    text_bytes: int
    """UTF-8 bytes of the decoded documents."""
    claimed: float | None
    explanation: str
    """What the difference between the claim and the count amounts to; empty without one."""
    table_bytes: int | None
    """By the tokenizer's look-up table, for comparison."""
    not_round_trip: int
    """Whole documents whose decoded text encodes to other tokens."""
    first_not_round_trip: str
    original_bytes: int | None
    """Bytes of the text as it was before it was encoded, where it is at hand."""


@dataclass(frozen=True)
class BudgetEvidence:
    """What was weighed and timed."""

    files: Mapping[str, int]
    """Bytes on disk of each file of the artifact."""
    total_bytes: int
    cap_bytes: int
    clocks: Mapping[str, float]
    """Seconds of each phase, as given."""
    clock_limits: Mapping[str, float]


@dataclass(frozen=True)
class IsolationEvidence:
    """One run of the scorer in a process of its own, without network and without some paths."""

    network: Literal["enforced", "observed"]
    files: Literal["enforced", "observed"]
    means: tuple[str, ...]
    """What the system offered, and what it refused."""
    forbidden: tuple[str, ...]
    connections: tuple[str, ...]
    """Attempts to reach an address or to look up a name."""
    forbidden_reads: tuple[str, ...]
    """Attempts to open or list a forbidden path."""
    processes: tuple[str, ...]
    """Programs started; what they do is fenced where it is enforced, and not observed."""
    difference: float | None
    """Largest difference in nats from the losses outside; None where the run gave none."""
    failure: str
    """How the isolated run ended, if not well."""


@dataclass(frozen=True)
class AuditReport:
    """One audit. `conditions` holds the verdicts, the rest the evidence."""

    scorer: str
    tokens: int
    tokens_sha256: str
    """SHA-256 of the tokens as little-endian int64."""
    vocab_size: int
    chunk_tokens: int | None
    options: AuditOptions
    first_scored: int
    """1 where the first token is context only, else 0."""
    mean_loss: Mapping[str, float]
    """Nats a token of each of the scorer's losses on the text."""
    runs: int
    """Plain runs of the scorer from the start."""
    seconds: float
    conditions: tuple[Condition, ...]
    notes: tuple[str, ...]
    sums: tuple[KraftSum, ...]
    causal: CausalEvidence | None
    repeat: Repeatability | None
    fast_path: FastPath | None
    distributions: DistributionEvidence | None
    documents: float | None
    """Largest change in nats of losses in documents when earlier documents changed."""
    bytes: ByteEvidence | None = None
    budget: BudgetEvidence | None = None
    isolation: IsolationEvidence | None = None
    reproduce: str = ""
    """The command that repeats this audit."""

    @property
    def judged(self) -> tuple[Condition, ...]:
        """The conditions that the overall verdict goes by: those of the claimed losses and of the whole scorer."""
        claims = self.options.claims
        return tuple(c for c in self.conditions if c.score is None or not claims or c.score in claims)

    @property
    def passed(self) -> bool:
        """No condition that was measured is violated or undecided."""
        return all(c.verdict in ("holds", "not measured") for c in self.judged)

    def named(self, *verdicts: Verdict) -> tuple[str, ...]:
        """Names of the judged conditions with one of `verdicts`, in order, each once."""
        return tuple(dict.fromkeys(c.name for c in self.judged if c.verdict in verdicts))
