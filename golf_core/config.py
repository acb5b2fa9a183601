"""The whole configuration of a run, as frozen dataclasses. Defaults are the published record's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from golf_core.errors import ConfigError
from golf_core.strict_json import from_dict, nearest, to_dict

Dtype = Literal["float32", "bfloat16"]


def _refuse_below(section: str, values: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(values, name) < least:
            raise ConfigError(f"{section}.{name}: {getattr(values, name)} is not at least {least}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of the transformer."""

    vocab_size: int = 1024
    """Tokens of the vocabulary; the tokenizer must have as many."""
    num_layers: int = 11
    """Transformer blocks."""
    model_dim: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Query heads; they divide `model_dim`."""
    num_kv_heads: int = 4
    """Key/value heads, each shared by as many query heads; they divide `num_heads`."""
    mlp_mult: int = 3
    """Width of the MLP over `model_dim`."""
    bigram_vocab_size: int = 2048
    """Rows of the hashed-bigram table; the last one is kept for position 0."""
    bigram_dim: int = 128
    """Width of a row, projected to `model_dim` where the two differ."""
    xsa_last_n: int = 4
    """Blocks, counted from the last, whose attention output is cleared of the position's own value vector."""
    rope_dims: int = 16
    """Dimensions of each head that are rotated; the rest carry no position."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies."""
    rope_train_len: int = 1024
    """Rows longer than this stretch the RoPE base."""
    ve_dim: int = 128
    """Width of the shared value embedding, projected to that of all key/value heads where the two differ."""
    ve_layers: tuple[int, ...] = (9, 10)
    """Blocks that add the shared value embedding to their values."""
    logit_softcap: float = 30.0
    """Logits are kept between this and its negative by a tanh."""
    qk_gain_init: float = 1.5
    """First value of the learnt gain of each head's queries."""
    bigram_scale_init: float = 0.05
    """First value of the learnt scale of the bigram embedding."""
    ve_scale_init: float = 0.1
    """First value of the learnt scale of the value embedding."""
    tok_emb_init_std: float = 0.005
    """Standard deviation of the token embedding's first values."""
    ve_init_std: float = 0.01
    """Standard deviation of the value embedding's first values."""
    table_dtype: Dtype = "float32"
    """Storage of the embedding tables. The published run kept bfloat16, in which small updates vanish."""

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "num_layers",
            "model_dim",
            "num_heads",
            "num_kv_heads",
            "mlp_mult",
            "bigram_dim",
            "ve_dim",
        )
        _refuse_below("model", self, 1, *sizes)
        _refuse_below("model", self, 0, "xsa_last_n")
        if self.model_dim % self.num_heads:
            raise ConfigError(f"model.num_heads: {self.num_heads} does not divide model_dim {self.model_dim}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"model.num_kv_heads: {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        if self.rope_dims % 2 or not 2 < self.rope_dims <= self.head_dim:
            raise ConfigError(f"model.rope_dims: must be even, above 2 and at most the head width {self.head_dim}")
        if any(not 0 <= layer < self.num_layers for layer in self.ve_layers):
            raise ConfigError(f"model.ve_layers: {list(self.ve_layers)} names a block outside 0..{self.num_layers - 1}")
        if self.bigram_vocab_size < 2:
            raise ConfigError("model.bigram_vocab_size: must be at least 2")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.model_dim // self.num_heads

    @property
    def kv_dim(self) -> int:
        """Width of all key/value heads together."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class TrainConfig:
    """The training run."""

    batch_tokens: int = 786_432
    """Tokens of one global step, whatever the number of ranks."""
    seq_len: int = 2048
    """Tokens of a row."""
    micro_batches: int = 8
    """Spans that a global batch is cut into; ranks take them in turn, so at most this many ranks."""
    iterations: int = 20_000
    """Steps at the most; warm-down and late QAT also look at this end."""
    wallclock_seconds: float | None = 600.0
    """Clock of the training phase: warm-up and validation excluded, all else included. None: steps alone."""
    warmup_steps: int = 20
    """Steps run before the clock starts, then undone: they compile everything."""
    warmdown_steps: int = 3500
    """Before the end, so many steps (as much time as they take on average) bring the learning rates down to zero."""
    muon_lr: float = 0.025
    """Muon's learning rate, for the matrices of attention and MLP and the projections."""
    muon_momentum: float = 0.99
    """Of Muon, once it has warmed up."""
    muon_momentum_start: float = 0.92
    """At the first step; from there it rises linearly."""
    muon_momentum_warmup_steps: int = 1500
    """Steps of that rise."""
    muon_steps: int = 5
    """Newton-Schulz iterations."""
    muon_dtype: Dtype = "bfloat16"
    """Precision of Newton-Schulz; CPUs without bfloat16 units want float32."""
    table_lr: float = 0.035
    """AdamW's learning rate for the embedding tables."""
    scalar_lr: float = 0.025
    """AdamW's learning rate for vectors, scalars and all that is neither table nor Muon's."""
    adam_beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    adam_eps: float = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: float = 0.04
    """Of both optimizers."""
    grad_clip: float = 0.3
    """Gradients are scaled down to this norm over all parameters."""
    ema_decay: float = 0.997
    """Decay a step of the average of the weights, which is what is exported."""
    qat_threshold: float = 0.15
    """Late QAT begins once the learning-rate factor falls under this."""
    qat_final_temperature: float = 0.05
    """Of the soft rounding at the last step; it begins at 1."""
    val_every: int = 4000
    """Steps between validation passes (off the clock); 0 validates at the end alone."""
    log_every: int = 10
    """Steps between log lines."""
    snapshot_seconds: float | None = None
    """Wall-clock seconds between snapshots (off the clock), from which training can be resumed: for experiments,
    never for a claim. None: no snapshots."""

    def __post_init__(self) -> None:
        _refuse_below("train", self, 1, "batch_tokens", "seq_len", "micro_batches", "iterations", "log_every")
        _refuse_below("train", self, 0, "warmup_steps", "warmdown_steps", "val_every")
        if self.batch_tokens % (self.micro_batches * self.seq_len):
            raise ConfigError(
                f"train.batch_tokens: {self.batch_tokens} is not a multiple of micro_batches x seq_len "
                f"= {self.micro_batches} x {self.seq_len}"
            )
        if self.wallclock_seconds is not None and self.wallclock_seconds <= 0:
            raise ConfigError("train.wallclock_seconds: must be positive, or null for no clock")
        if self.snapshot_seconds is not None and self.snapshot_seconds <= 0:
            raise ConfigError("train.snapshot_seconds: must be positive, or null for no snapshots")


@dataclass(frozen=True)
class ArtifactConfig:
    """How weights are squeezed into the file that counts."""

    float16_max_elements: int = 65_536
    """Tensors of at most this many elements are kept as float16."""
    int6_quantiles: tuple[float, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    """Candidate row clips; the one with the least mean square error over the tensor is taken."""
    int8_quantile: float = 0.9999984
    """Row clip of the tensors that are kept as int8."""
    lzma_preset: int = 6
    """Effort of LZMA, 0 to 9."""
    cap_bytes: int | None = 16_000_000
    """Code and compressed weights together: the weights are made to fit what the code leaves. None: no cap, and the
    published quantisation as it is. A job sets it from its budget."""
    keep_published: bool = True
    """Leave the published quantisation as it is wherever it fits; false: seek the least loss under the cap at once."""
    recode: bool = True
    """Where LZMA is too long, the same values may be stored under range coding."""
    requantize: bool = True
    """Where that is too long as well, every matrix, row and column may get a width of its own."""
    prune: bool = False
    """A new width may also zero the values whose bits are worth more than their error. Measured: no gain."""

    def __post_init__(self) -> None:
        if self.cap_bytes is not None and self.cap_bytes < 1:
            raise ConfigError("artifact.cap_bytes: must be at least 1, or null for no cap")
        if not self.keep_published and not self.requantize:
            raise ConfigError("artifact.requantize: false allows nothing but what keep_published: false gives up")
        if not 0 <= self.lzma_preset <= 9:
            raise ConfigError(f"artifact.lzma_preset: {self.lzma_preset} is not in 0..9")
        if not self.int6_quantiles or not all(0 < q <= 1 for q in (*self.int6_quantiles, self.int8_quantile)):
            raise ConfigError("artifact.int6_quantiles, int8_quantile: quantiles lie in (0, 1]")


@dataclass(frozen=True)
class MixerConfig:
    """The valid mixture's parts, each of which can be left out. See docs/mixture.md for what each is worth."""

    orders: int = 5
    """Contexts of up to this many tokens are counted over the whole text scored so far; 0 counts none."""
    document_orders: int = 4
    """The same within the current document; 0 counts none."""
    match_tokens: int = 6
    """The longest-match expert speaks from this many matching tokens on; 0 leaves it out."""
    tilt: bool = True
    """Geometric mixing of the neural distribution with the document's words, at a temperature learnt online."""
    confidence: bool = True
    """The weights of the document's experts depend on how sure the neural distribution is."""
    context_weights: bool = True
    """Weights depend on how much is known of the context; otherwise each expert has a single one."""
    update_tokens: int = 2048
    """The weights learn after every so many positions."""

    def __post_init__(self) -> None:
        if not 0 <= self.orders <= 16 or not 0 <= self.document_orders <= 16:
            raise ConfigError("evaluate.mixer: orders and document_orders are in 0..16")
        if not 0 <= self.match_tokens <= 32:
            raise ConfigError(f"evaluate.mixer.match_tokens: {self.match_tokens} is not in 0..32")
        if self.update_tokens < 1:
            raise ConfigError("evaluate.mixer.update_tokens: must be at least 1")


@dataclass(frozen=True)
class EvalConfig:
    """Sliding windows, test-time training (TTT) and the hedge mixer."""

    seq_len: int = 2048
    """Tokens of a window."""
    stride: int = 64
    """Tokens by which windows advance; each scores its last so many."""
    chunk_tokens: int = 32_768
    """Tokens that are scored before anything is learned from them."""
    temperature: float = 0.98
    """Divides the logits when scoring; not in the TTT loss."""
    ttt: bool = True
    """Adapt on each chunk after it has been scored."""
    hedge: bool = True
    """Compute the mixtures beside the neural figure."""
    ttt_lr: float = 5e-4
    """AdamW's learning rate while adapting."""
    ttt_lr_ramp: float = 2.0
    """The rate's multiplier grows from 1 to 1 + this over the first `ttt_ramp_share` of the chunks."""
    ttt_ramp_share: float = 0.3
    """Share of the chunks over which the rate grows."""
    ttt_beta1: float = 0.9
    """As in training."""
    ttt_beta2: float = 0.999
    """As in training."""
    ttt_epochs: int = 3
    """Passes over a chunk while adapting on it."""
    ttt_rows_per_step: int = 32
    """Rows of one adaptation step over all ranks together, so that the figure depends on no world size."""
    ttt_grad_clip: float = 1.0
    """As in training."""
    ttt_blocks: int = 2
    """Last blocks that are adapted whole."""
    polyak_decay: float = 0.998
    """Decay a step of the average of the adapted weights, which is what scores."""
    hedge_eta: float = 0.1
    """Learning rate of the published mixture's log weights."""
    hedge_min_tokens: int = 10_000
    """The neural expert stands alone until this many tokens have been counted."""
    count_smoothing: float = 0.1
    """Added to each count of the published experts."""
    trigram_buckets: int = 65_536
    """Buckets into which pairs of tokens are hashed for the trigram expert."""
    neural_log_weight: float = 2.0
    """Initial log weight of the neural expert; the others start at zero."""
    batch_windows: int = 32
    """Windows of one forward pass on a rank."""
    mixer: MixerConfig = field(default_factory=MixerConfig)
    """Of the valid mixture; the fields above that begin with hedge, count and trigram are the published one's."""
    kraft_positions: int = 8
    """Positions of each chunk at which the mixtures are summed over the whole vocabulary; 0 measures nothing."""
    max_tokens: int | None = None
    """Evaluate only the first this many tokens: for experiments, never for a claim."""
    repeat_tail: bool = False
    """Score the last `stride` tokens once for every window that reaches the end, as the published code does.
    For comparison with its figures only: a valid score counts every token once."""

    def __post_init__(self) -> None:
        _refuse_below(
            "evaluate", self, 1, "seq_len", "chunk_tokens", "batch_windows", "ttt_rows_per_step", "ttt_epochs"
        )
        _refuse_below("evaluate", self, 0, "ttt_blocks", "hedge_min_tokens", "kraft_positions")
        if not 1 <= self.stride <= self.seq_len:
            raise ConfigError(f"evaluate.stride: {self.stride} is not in 1..seq_len {self.seq_len}")
        if self.chunk_tokens % self.seq_len:
            raise ConfigError(f"evaluate.chunk_tokens: {self.chunk_tokens} is not a multiple of seq_len {self.seq_len}")
        if self.temperature <= 0 or self.count_smoothing <= 0:
            raise ConfigError("evaluate: temperature and count_smoothing must be positive")
        # The bucket of a pair is a 16-bit value: more buckets would stay empty.
        if not 1 <= self.trigram_buckets <= 65_536:
            raise ConfigError(f"evaluate.trigram_buckets: {self.trigram_buckets} is not in 1..65536")


@dataclass(frozen=True)
class GolfConfig:
    """Everything that decides a run's figures, but for seed, data and number of ranks."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    artifact: ArtifactConfig = field(default_factory=ArtifactConfig)
    evaluate: EvalConfig = field(default_factory=EvalConfig)
    compile: bool = True
    """torch.compile on CUDA; ignored on a CPU."""


def small() -> GolfConfig:
    """About a million parameters and every mechanism of the record, for one or two CPU cores."""
    return GolfConfig(
        model=ModelConfig(
            num_layers=4,
            model_dim=160,
            num_heads=4,
            num_kv_heads=2,
            bigram_vocab_size=1024,
            bigram_dim=96,
            xsa_last_n=2,
            ve_dim=64,
            ve_layers=(2, 3),
        ),
        train=TrainConfig(
            batch_tokens=4096,
            seq_len=256,
            iterations=100,
            wallclock_seconds=None,
            warmup_steps=2,
            warmdown_steps=60,
            muon_momentum_warmup_steps=60,
            muon_dtype="float32",
            ema_decay=0.95,
            val_every=0,
        ),
        evaluate=EvalConfig(
            seq_len=256, stride=64, chunk_tokens=4096, hedge_min_tokens=8192, mixer=MixerConfig(update_tokens=256)
        ),
    )


PRESETS = {"record": GolfConfig, "small": small}


def preset(name: str) -> GolfConfig:
    """The preset called `name` ('record' or 'small'). Raises `ConfigError` for another name."""
    if name not in PRESETS:
        raise ConfigError(f"preset: '{name}' is not one of {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return PRESETS[name]()


def override(config: GolfConfig, changes: Mapping[str, Any], where: str = "") -> GolfConfig:
    """A copy of `config` with fields replaced.

    `changes` is nested ({"train": {"iterations": 10}}) or dotted ({"train.iterations": 10}), or both.
    Raises `ConfigError` with the field's path for an unknown name or a value of another type.
    """
    values = to_dict(config)
    for path, value in leaves(changes):
        node, parents = values, path.split(".")
        for depth, name in enumerate(parents[:-1]):
            if not isinstance(node.get(name), dict):
                raise ConfigError(f"{where}{'.'.join(parents[: depth + 1])}: no such field{nearest(name, node)}")
            node = node[name]
        if parents[-1] not in node:
            raise ConfigError(f"{where}{path}: no such field{nearest(parents[-1], node)}")
        if isinstance(node[parents[-1]], dict):
            raise ConfigError(f"{where}{path}: is a group of fields, not a value")
        node[parents[-1]] = value
    try:
        return from_dict(GolfConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def leaves(changes: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted names and values; an empty mapping is a value."""
    found: list[tuple[str, Any]] = []
    for name, value in changes.items():
        if isinstance(value, Mapping) and value:
            found += leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
