"""The weights made to fit: of what the cap leaves beside the code, the least loss.

The ladder: the published quantisation under LZMA; the same values under range coding; steps chosen anew, by what each
matrix, row and column matters to the loss. The last is a rate-distortion search: at equal slope every value's expected
damage ½·F·step²/12 is the same, so that one number, the pitch, decides all steps: step = pitch / sqrt(F). The pitch is
sought until the file, encoded in full each time, fills the room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from golf_core.artifact.codec import encode
from golf_core.artifact.packed import encode_packed, variances
from golf_core.artifact.quantize import Quantized, grid_steps, quantize_all
from golf_core.artifact.rans import MAX_SYMBOL
from golf_core.config import ArtifactConfig, GolfConfig
from golf_core.errors import ArtifactError
from golf_core.model.gpt import GPT, model_from
from golf_core.results import Method

MIN_ELEMENTS, MIN_SIDE = 1024, 8
"""Least size of a matrix whose steps are chosen; what is smaller stays float16."""
LEAST_SENSITIVITY = 0.03
"""Added to the relative sensitivity of rows and columns, which a small sample can miss."""
LEAST_MEAN = 1e-9
"""The least sensitivity of a matrix relative to the greatest."""
NEGLIGIBLE = 1e-5
"""Expected loss, nats a token, under which more bytes buy nothing."""
SLACK = 1 / 1000
"""Share of the room that may stay empty."""
MAX_TRIALS = 16
PRUNING = 0.0416
"""What a bit weighs against an error: ln 2 / 6 of a squared step, at the search's own slope. A Gaussian value of one
step costs log2(e) / 2 bits more than a zero, divided by the variance in squared steps; half of the product."""


@dataclass(frozen=True)
class Fitted:
    """An artifact that fits."""

    data: bytes
    """The file."""
    method: Method
    tensors: Mapping[str, Quantized]
    distortion: float | None
    """Expected rise of the loss by the quantisation, nats a token; None where it was not computed."""


@dataclass(frozen=True)
class _Matrix:
    """A matrix whose steps are pitch · unit · √2^rows · √2^cols."""

    weight: Tensor
    sensitivity: Sensitivity
    unit: float
    rows: Tensor
    cols: Tensor
    largest: Tensor
    """[rows] float32: the largest |weight| / √2^cols of each row."""
    spread: tuple[Tensor, Tensor]
    """Standard deviations of the weights, as row [rows] times column [cols]."""

    def quantize(self, pitch: float, prune: bool) -> Quantized:
        unit = torch.tensor(pitch * self.unit, dtype=torch.float32)
        # Rows whose integers would be too large get wider steps.
        least = (2 * (self.largest / (unit * MAX_SYMBOL)).log2()).ceil().clamp(-128, 127)
        rows = torch.maximum(self.rows, least.to(torch.int8))
        steps = grid_steps(unit, rows, self.cols)
        scaled = self.weight / steps
        values = scaled.round().clamp_(-MAX_SYMBOL, MAX_SYMBOL)
        if prune:
            spread = self.spread[0][:, None] * self.spread[1] / steps
            values[scaled.abs() < 0.5 + (PRUNING / spread.square()).clamp_max(0.5)] = 0
        return Quantized("grid", values.to(torch.int16), unit, rows, self.cols)

    def damage(self, stored: Quantized) -> float:
        """Expected rise of the loss, nats a token."""
        error = (self.weight - stored.dequantize()).square()
        found = self.sensitivity
        return 0.5 * found.mean * float(found.rows @ (error @ found.cols))


def fit(model: GPT, config: GolfConfig, code_bytes: int) -> Fitted:
    """The artifact of `model` within the cap, less the code's bytes.

    Without a cap it is the published quantisation. Raises `ArtifactError` where nothing that is allowed fits.
    """
    allowed = config.artifact
    room = math.inf if allowed.cap_bytes is None else allowed.cap_bytes - code_bytes
    smallest: list[int] = []
    if allowed.keep_published or math.isinf(room):
        tensors = quantize_all(model.state_dict(), allowed)
        data = encode(config.model, tensors, allowed.lzma_preset)
        if len(data) <= room:
            return Fitted(data, "as quantised", tensors, None)
        smallest.append(len(data))
        if allowed.recode:
            data = encode_packed(config.model, tensors)
            if len(data) <= room:
                return Fitted(data, "recoded", tensors, None)
            smallest.append(len(data))
    if allowed.requantize:
        found = _search(model, config, int(room))
        if isinstance(found, Fitted):
            return found
        smallest.append(found)
    raise ArtifactError(_too_large(allowed, min(smallest), code_bytes))


def _too_large(allowed: ArtifactConfig, smallest: int, code_bytes: int) -> str:
    assert allowed.cap_bytes is not None
    off = [f"artifact.{name}" for name in ("recode", "requantize") if not getattr(allowed, name)]
    switches = f"allow {' and '.join(off)}, " if off else ""
    return (
        f"the smallest artifact is {smallest:,} bytes, with the code's {code_bytes:,} over the cap of "
        f"{allowed.cap_bytes:,} by {smallest + code_bytes - allowed.cap_bytes:,}; {switches}raise the cap "
        "(artifact.cap_bytes; in a job budgets.artifact_bytes) or make the model smaller"
    )


# --- the search -------------------------------------------------------------------------------------


def _search(model: GPT, config: GolfConfig, room: int) -> Fitted | int:
    """The finest pitch whose file has at most `room` bytes, or the bytes of the coarsest of all."""
    weights = {name: weight.detach().float().cpu() for name, weight in model.state_dict().items()}
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise ArtifactError("the model's weights are not finite; there is nothing to fit")
    matrices = _matrices(model, weights)

    def stored(pitch: float) -> dict[str, Quantized]:
        return {
            name: matrices[name].quantize(pitch, config.artifact.prune)
            if name in matrices
            else Quantized("float16", weight.half())
            for name, weight in weights.items()
        }

    def packed(at: float) -> bytes:
        return encode_packed(config.model, stored(math.exp(at)))

    coarsest = _coarsest(matrices)
    best = packed(coarsest)
    if len(best) > room:
        return len(best)
    at, trials = coarsest, [(coarsest, len(best))]
    finest, guess = _first_guess(matrices, room - len(best))
    finest = min(finest, coarsest)
    for _ in range(MAX_TRIALS):
        if at == finest or SLACK * room >= room - len(best):
            break
        trial = min(max(guess, finest), coarsest)
        data = packed(trial)
        trials.append((trial, len(data)))
        if len(data) <= room and trial < at:
            at, best = trial, data
        guess = _next(trials, room * (1 - SLACK / 2), sum(m.weight.numel() for m in matrices.values()))
    tensors = stored(math.exp(at))
    damage = sum(matrix.damage(tensors[name]) for name, matrix in matrices.items())
    return Fitted(best, "fitted", tensors, damage)


def _next(trials: Sequence[tuple[float, int]], target: float, count: int) -> float:
    """Where to expect `target` bytes, by trials (logarithm of the pitch, bytes) of which the first is the coarsest."""
    slope = -count / (8 * math.log(2))  # one bit a weight for each octave, as long as few values are zero
    over = [trial for trial in trials if trial[1] > target]
    under = [trial for trial in trials[1:] if trial[1] <= target]
    last = trials[-1]
    if over and under:
        (low, most), (high, least) = max(over), min(under)
        share = (most - target) / max(most - least, 1)
        return low + (high - low) * min(max(share, 0.02), 0.98)
    if len(trials) > 2 and (last[0] - trials[-2][0]) * (last[1] - trials[-2][1]) < 0:
        slope = (last[1] - trials[-2][1]) / (last[0] - trials[-2][0])
    guess = last[0] + (1.02 if over else 1.2) * (target - last[1]) / slope
    return min(guess, (last[0] + trials[0][0]) / 2)


def _matrices(model: GPT, weights: Mapping[str, Tensor]) -> dict[str, _Matrix]:
    names = [n for n, w in weights.items() if w.ndim == 2 and w.numel() >= MIN_ELEMENTS and min(w.shape) >= MIN_SIDE]
    found = sensitivities(model, names)
    greatest = max((s.mean for s in found.values()), default=0.0) or 1.0
    return {name: _matrix(weights[name], found[name], LEAST_MEAN * greatest) for name in names}


def _matrix(weight: Tensor, sensitivity: Sensitivity, least_mean: float) -> _Matrix:
    rows, cols = (
        # √2^exponent = 1 / sqrt(relative sensitivity)
        (-torch.log2(relative + LEAST_SENSITIVITY)).round().to(torch.int8)
        for relative in (sensitivity.rows, sensitivity.cols)
    )
    largest = (weight.abs() / grid_steps(torch.tensor(1.0), torch.zeros_like(rows), cols)).amax(1)
    variance = variances((weight.square() + 1e-12).numpy())
    spread = [torch.from_numpy(part).float().sqrt() for part in variance]
    unit = max(sensitivity.mean, least_mean) ** -0.5
    return _Matrix(weight, sensitivity, unit, rows, cols, largest, (spread[0], spread[1]))


def _coarsest(matrices: Mapping[str, _Matrix]) -> float:
    """The logarithm of a pitch at which every value is rounded to zero."""
    pitches = [float((m.largest * torch.exp2(-m.rows.float() / 2)).max()) / m.unit for m in matrices.values()]
    return math.log(3 * max(pitches, default=1.0) + 1e-30)


def _first_guess(matrices: Mapping[str, _Matrix], room: int) -> tuple[float, float]:
    """Logarithms of the finest pitch that is worth its bytes, and of one that may fill the room."""
    count = sum(m.weight.numel() for m in matrices.values()) or 1
    finest = 0.5 * math.log(24 * NEGLIGIBLE / count)  # the damage of all values is count · pitch² / 24
    bits = 0.0
    for m in matrices.values():
        spread = m.spread[0].log2().mean() + m.spread[1].log2().mean()
        step = math.log2(m.unit) + 0.5 * (m.rows.float().mean() + m.cols.float().mean())
        # The entropy of a Gaussian in steps is log2(σ/step) + ½·log2(2πe).
        bits += m.weight.numel() * float(spread - step + 2.05)
    return finest, (bits - 8 * room) / count * math.log(2)


# --- what each weight matters: the diagonal of the Fisher information ---

ROWS = 16
ROW_TOKENS = 256
CHUNK = 8
"""Tokens that the model writes in a row: 1 would leave the text uniformly random."""
SEED = 20_240_520


@dataclass(frozen=True)
class Sensitivity:
    """Fisher information of one matrix [rows, cols] in nats a token, as mean · rows_i · cols_j."""

    mean: float
    rows: Tensor
    """[rows] float32, of mean 1."""
    cols: Tensor
    """[cols] float32, of mean 1."""


def sensitivities(model: GPT, names: Sequence[str]) -> dict[str, Sensitivity]:
    """The sensitivities of the matrices called `names`. Deterministic on one machine with one number of threads."""
    twin = model_from(model.config, model.state_dict())  # in full precision, without fake quantisation
    parameters = [twin.get_parameter(name) for name in names]
    generator = torch.Generator().manual_seed(SEED)
    ids = own_text(twin, ROWS, ROW_TOKENS, generator)
    rows = [torch.zeros(p.size(0)) for p in parameters]
    cols = [torch.zeros(p.size(1)) for p in parameters]
    for row in ids:
        logits = twin.logits(twin.hidden(row[None])).float()[0]
        gradients = torch.autograd.grad(logits, parameters, _of_all_targets(logits.detach(), generator))
        for i, gradient in enumerate(gradients):
            square = gradient.float().square()
            rows[i] += square.mean(1)
            cols[i] += square.mean(0)
    return {name: _scaled(rows[i], cols[i]) for i, name in enumerate(names)}


@torch.no_grad()
def own_text(model: GPT, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Token ids [rows, length] (int64) that the model wrote, in pieces of CHUNK tokens.

    The first token of each piece is random, the others are drawn from the model's distributions one after another,
    all pieces at once: so CHUNK - 1 forward passes are enough, whatever the length.
    """
    size = (rows, length)
    ids = torch.randint(model.config.vocab_size, size, generator=generator)
    for place in range(1, CHUNK):
        probabilities = model.logits(model.hidden(ids)).float().softmax(-1)
        drawn = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(size)
        ids[:, place::CHUNK] = drawn[:, place - 1 :: CHUNK][:, : ids[:, place::CHUNK].size(1)]
    return ids


def _of_all_targets(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random gradient of the loss by the logits [tokens, vocab_size] that stands for all targets at once.

    Drawn targets have gradients whose mean square is diag(p) - p pᵀ. So has √p·s - p·Σ √p·s with random signs s, and
    its square is near p at every token of the vocabulary, where that of a drawn target is 0 at nearly all of them.
    Signs that are independent leave no correlation: the square of a sum over positions is, on average, the sum of
    the squares.
    """
    probabilities = logits.softmax(-1)
    signs = torch.randint(2, logits.shape, generator=generator) * 2 - 1
    roots = probabilities.sqrt() * signs
    return roots - probabilities * roots.sum(-1, keepdim=True)


def _scaled(rows: Tensor, cols: Tensor) -> Sensitivity:
    mean = float(rows.mean())
    if mean == 0:
        return Sensitivity(0.0, torch.ones_like(rows), torch.ones_like(cols))
    return Sensitivity(mean / (ROWS * ROW_TOKENS), rows / mean, cols / mean)
