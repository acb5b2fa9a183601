"""The folder's figures against a baseline's: recomputed differences and tests, and what the file claims of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestrator.claim.statistics import ALPHA, MARGIN_NATS, one_sample, welch
from orchestrator.folder.results import Test
from orchestrator.verify.figures import Quantity, agreement, shown
from orchestrator.verify.report import Comparison, FinalStage, Finding, Status, Verdict, finding
from orchestrator.verify.submission import Claim

COMPARED = ("delta", "t", "df", "p", "baseline", "margin")
"""What a claim may say of two folders, as `Claim.aggregate`."""
RATIO_TOLERANCE = 0.005
"""Relative difference in BPB per nat beyond which two texts or tokenizers are not the same."""


@dataclass(frozen=True)
class Baseline:
    """What is known of a baseline: its seeds' figures from its own logs, or its means as somebody states them."""

    name: str
    source: str
    bpb: tuple[float, ...] = ()
    nats: tuple[float, ...] = ()
    mean_bpb: Quantity | None = None
    mean_nats: Quantity | None = None
    assumed: bool = False
    """Named by the caller, not by the folder: what the folder says of a baseline may be about another."""


def baseline_of(name: str, final: FinalStage, source: str) -> Baseline:
    """A folder's own figures as a baseline."""
    bpb, nats = _values(final)
    fine = max((figure.resolution for figure in final.figures), default=0.0)
    mean_bpb, mean_nats = (Quantity(fmean(values), fine, "") if values else None for values in (bpb, nats))
    return Baseline(name, source, tuple(bpb), tuple(nats), mean_bpb, mean_nats)


def stated_baseline(claims: Sequence[Claim]) -> Baseline | None:
    """The baseline's means as submission.json gives them."""
    found: dict[str, Claim] = {}
    for claim in claims:
        if claim.aggregate == "baseline":
            found.setdefault(claim.figure, claim)
    if not found:
        return None
    source = "means as stated in " + ", ".join(dict.fromkeys(str(claim.place) for claim in found.values()))
    bpb, nats = (found[name].quantity if name in found else None for name in ("val_bpb", "val_loss"))
    return Baseline("the stated baseline", source, mean_bpb=bpb, mean_nats=nats)


def matches(stated: Baseline, final: FinalStage) -> bool:
    """Whether the means that a file states of its baseline are those of another folder's logs."""
    other = baseline_of("", final, "")
    pairs = [(stated.mean_bpb, other.mean_bpb), (stated.mean_nats, other.mean_nats)]
    known = [(said, found) for said, found in pairs if said is not None and found is not None]
    # Four digits of a mean are shared by strangers; seven are not.
    fine = any(said.resolution <= 1e-6 for said, _ in known)
    return fine and all(agreement(said, found, computed=True) != "differs" for said, found in known)


def compare(final: FinalStage, baseline: Baseline) -> Comparison:
    """Differences, and the tests of "lower by 0.005 nats a token" and of "lower at all"."""
    bpb, nats = _values(final)
    ratio = fmean(bpb) / fmean(nats) if nats and fmean(nats) > 0 else None
    margin = MARGIN_NATS * ratio if ratio is not None else None
    mean_bpb = baseline.mean_bpb.value if baseline.mean_bpb else None
    mean_nats = baseline.mean_nats.value if baseline.mean_nats else None
    tests: tuple[Test, ...] = ()
    if mean_bpb is not None and bpb:
        nulls = [0.0] if margin is None else [margin, 0.0]
        tests = tuple(
            welch(bpb, baseline.bpb, null) if baseline.bpb else one_sample(bpb, mean_bpb, null) for null in nulls
        )
    same_text: bool | None = None
    if ratio is not None and mean_bpb and mean_nats:
        same_text = abs(ratio * mean_nats / mean_bpb - 1) <= RATIO_TOLERANCE
    return Comparison(
        baseline=baseline.name,
        source=baseline.source,
        mean_bpb=mean_bpb,
        mean_nats=mean_nats,
        delta_bpb=fmean(bpb) - mean_bpb if mean_bpb is not None and bpb else None,
        delta_nats=fmean(nats) - mean_nats if mean_nats is not None and nats and same_text is not False else None,
        margin_bpb=margin,
        tests=tests,
        note=_note(ratio, mean_bpb, mean_nats, margin, same_text),
    )


def findings(comparison: Comparison) -> Iterator[Finding]:
    """What the comparison comes to, test by test."""
    for test in comparison.tests:
        subject = f"{test.name} against {comparison.baseline}"
        detail, found = f"null hypothesis: {test.null}; {comparison.source}", ""
        if test.p is None:
            detail += f"; no p: {test.note}"
        else:
            found = f"t = {test.statistic:.4f}, {test.df:.4f} degrees of freedom, p = {test.p:.2g} (one-sided)"
            found += f", {'' if test.p < ALPHA else 'not '}below {ALPHA:g}"
        yield finding("statistics", subject, "stated", detail, found=found)
    if comparison.note:
        yield finding("statistics", f"units against {comparison.baseline}", "stated", comparison.note)


# --- claims -----------------------------------------------------------------------------------------


def check_comparison(claim: Claim, final: FinalStage | None, baseline: Baseline | None) -> Finding:
    """A claimed difference, test statistic or margin, recomputed."""
    if final is None or not final.scores:
        return _open(claim, "the logs give no scores to compare")
    if claim.aggregate == "margin":
        return _judged(claim, _margins(claim, final), "the logs do not give nats and BPB")
    if baseline is None:
        return _open(claim, "the file gives no figures of its baseline; name its folder with --baseline")
    if claim.aggregate in ("baseline", "delta"):
        mean = baseline.mean_nats if claim.figure == "val_loss" else baseline.mean_bpb
        options = list(_deltas(claim, final, baseline))
        if claim.aggregate == "baseline":
            options = [(mean, baseline.source)] if mean is not None else []
        return _judged(claim, options, "of the baseline this figure is not known", baseline.assumed)
    tests = list(_tests(claim, final, baseline))
    needed = "it needs the baseline's figure of each seed; name its folder with --baseline"
    if not baseline.bpb and tests and all(agreement(claim.quantity, test, True) == "differs" for test, _ in tests):
        return _open(claim, f"not that of a one-sample test against the stated mean; {needed}")
    return _judged(claim, tests, needed, baseline.assumed)


Option = tuple[Quantity, str]


def _judged(claim: Claim, options: Iterable[Option], otherwise: str, assumed: bool = False) -> Finding:
    """The first of the options that the claim agrees with, else the difference from the first of all."""
    tried = list(options)
    if not tried:
        return _open(claim, otherwise)
    for value, what in tried:
        verdict = agreement(claim.quantity, value, computed=True)
        if verdict != "differs":
            return _made(claim, verdict, value, what)
    value, what = tried[0]
    if assumed:
        return _made(claim, "differs", value, f"{what}; the file may speak of another baseline", "note")
    return _made(claim, "differs", value, what)


def _made(claim: Claim, verdict: Verdict, value: Quantity, what: str, status: Status | None = None) -> Finding:
    text = shown(value.value, value.resolution) if claim.aggregate == "baseline" else f"{value.value:.6g}"
    return finding("statistics", claim.subject, verdict, what, (claim.place,), claim.quantity.text, text, status)


def _open(claim: Claim, detail: str) -> Finding:
    return finding("statistics", claim.subject, "not in the logs", detail, (claim.place,), claim.quantity.text)


def _margins(claim: Claim, final: FinalStage) -> Iterator[Option]:
    bpb, nats = _values(final)
    if claim.figure == "val_loss":
        yield Quantity(MARGIN_NATS, 0.0, ""), "the challenge's margin"
    elif nats:
        yield Quantity(MARGIN_NATS * fmean(bpb) / fmean(nats), 1e-10, ""), "0.005 nats a token by the logs' own ratio"


def _deltas(claim: Claim, final: FinalStage, baseline: Baseline) -> Iterator[Option]:
    bpb, nats = _values(final)
    fine = max(figure.resolution for figure in final.figures)
    # A gain is the same difference without its sign.
    sign = -1.0 if claim.quantity.value > 0 else 1.0
    own, mean, ratio, words = bpb, baseline.mean_bpb, 1.0, ""
    if claim.figure == "val_loss" and nats and baseline.mean_nats is None:
        ratio, words = fmean(nats) / fmean(bpb), ", in nats by the logs' own ratio"
    elif claim.figure == "val_loss":
        own, mean = nats, baseline.mean_nats
    if own and mean is not None:
        value = sign * (fmean(own) - mean.value) * ratio
        what = f"mean of the logs less the baseline's ({baseline.source}){words}"
        yield Quantity(value, (fine + mean.resolution) * ratio, ""), what


def _tests(claim: Claim, final: FinalStage, baseline: Baseline) -> Iterator[Option]:
    """The statistic by every way that it may have been computed: in BPB or nats, against the margin or zero."""
    bpb, nats = _values(final)
    ratio = fmean(bpb) / fmean(nats) if nats else None
    for unit, own, theirs, mean in (
        ("BPB", bpb, baseline.bpb, baseline.mean_bpb),
        ("nats", nats, baseline.nats, baseline.mean_nats),
    ):
        if not own or mean is None:
            continue
        margin = MARGIN_NATS if unit == "nats" else MARGIN_NATS * ratio if ratio else None
        for null, by in (("zero", 0.0), ("margin", margin)):
            if by is None or claim.null not in ("", null):
                continue
            test = welch(own, theirs, by) if theirs else one_sample(own, mean.value, by)
            value = {"t": test.statistic, "df": test.df, "p": test.p}[claim.aggregate]
            if value is None:
                continue
            error = max(_error(final, own, mean, by, test, claim.aggregate), 1e-4 if claim.aggregate != "p" else 0.0)
            against = "zero" if null == "zero" else "0.005 nats"
            yield Quantity(value, error, ""), f"{test.name} in {unit} against a difference of {against}"


def _error(final: FinalStage, own: Sequence[float], mean: Quantity, by: float, test: Test, aggregate: str) -> float:
    """How far the rounding of the logged figures may carry a statistic."""
    if aggregate == "df":
        return 1e-3 * (test.df or 0.0) * 0.01
    fine = max(figure.resolution for figure in final.figures)
    gap = abs(fmean(own) - mean.value + by)
    spread = stdev(own)
    relative = 2 * fine / spread + 2 * (fine + mean.resolution) / max(gap, 1e-12)
    if aggregate == "t":
        return abs(test.statistic or 0.0) * relative
    # p falls with a power of t; its relative error is that power times t's.
    return (test.p or 0.0) * relative * 2 * max(test.df or 1.0, abs(test.statistic or 0.0))


# --- figures ----------------------------------------------------------------------------------------


def _values(final: FinalStage) -> tuple[list[float], list[float]]:
    """BPB of each seed, and nats a token where every seed has them."""
    nats = [score.val_loss.value for score in final.scores if score.val_loss is not None]
    return [figure.value for figure in final.figures], nats if len(nats) == len(final.scores) else []


def _note(
    ratio: float | None, mean_bpb: float | None, mean_nats: float | None, margin: float | None, same: bool | None
) -> str:
    if ratio is None or margin is None:
        return "the logs do not give nats a token, so the margin of 0.005 nats cannot be converted"
    converted = f"0.005 nats a token are {margin:.5f} BPB by the candidate's own ratio ({ratio:.5f} BPB per nat)"
    if same is False and mean_bpb and mean_nats:
        there = f"{mean_bpb / mean_nats:.5f} BPB per nat there"
        return f"tokenizer or text differs from the baseline's ({there}): BPB are compared, and {converted}"
    if same is None:
        return f"{converted}; whether the baseline's tokenizer is the same cannot be told from its figures"
    return converted
