"""What texts say against the logs: blurbs and descriptions of submission.json, paragraphs and tables of README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.verify.check_claims import check, check_setting, value_text
from orchestrator.verify.claims import Aggregate, Claim
from orchestrator.verify.comparison import Baseline, check_comparisons
from orchestrator.verify.evidence import Evidence
from orchestrator.verify.figures import Place
from orchestrator.verify.prose import Reading, Said, read_paragraphs, read_text
from orchestrator.verify.quantities import Quantity, agreement
from orchestrator.verify.report import Finding, Topic
from orchestrator.verify.submission_reader import SUBMISSION, Digits, Leaf

_NO_PROSE = re.compile(r"(?:.*_)?(?:author|github_id|date|version|pr|tokenizer|hardware|platform|gpu|sha256|commit)")
MOST_LISTED = 12
_MEANINGS = {
    "mean": "mean", "score": "score", "sd": "standard deviation", "t": "t", "df": "degrees of freedom", "p": "p",
    "seeds": "number of seeds", "delta": "difference", "baseline": "baseline", "bytes": "bytes", "steps": "steps",
    "ms_per_step": "milliseconds a step", "xsa": "XSA layers",
}  # fmt: skip


def read_submission_texts(leaves: Sequence[Leaf]) -> Reading:
    """The texts of submission.json in which authors write figures."""
    reading = Reading()
    for leaf in leaves:
        if isinstance(leaf.value, str) and not isinstance(leaf.value, Digits) and not _NO_PROSE.fullmatch(leaf.key):
            read_text(leaf.value, Place(SUBMISSION, leaf.line), leaf.where, reading)
    return reading


def read_readme(evidence: Evidence) -> Reading:
    """The paragraphs of README.md."""
    reading = Reading()
    read_paragraphs(evidence.folder.readme or (), "README.md", reading)
    return reading


def check_said(reading: Reading, topic: Topic, evidence: Evidence, baseline: Baseline | None) -> Iterator[Finding]:
    """A finding for each figure whose meaning is settled, and one for those that were not read."""
    unnamed: dict[str, Place] = {}
    for said in reading.said:
        finding = _check(said, evidence, baseline)
        if finding is None:
            unnamed.setdefault(f"{said.key}={said.quantity.text}", said.place)
        else:
            yield _as(finding, topic)
    yield from _in_both_units(reading, evidence)
    if unnamed:
        names = ", ".join(list(unnamed)[:MOST_LISTED])
        more = f" and {len(unnamed) - MOST_LISTED} more" if len(unnamed) > MOST_LISTED else ""
        where = tuple(dict.fromkeys(unnamed.values()))[:MOST_LISTED]
        detail = f"named in the text, but not in the logs: {names}{more}"
        yield Finding(topic, "settings in the text", "absent", "not in the logs", "", "", detail, where)
    if reading.unread:
        detail = f"{len(reading.unread)} more in the text were not checked: nothing says what they are"
        yield Finding(topic, "other numbers", "note", "stated", "", "", detail, ())


def stated_baseline(readings: Sequence[Reading], claims: Sequence[Claim]) -> Baseline | None:
    """The baseline's means as the folder's own files give them."""
    found: dict[str, tuple[Quantity, Place]] = {}
    for claim in claims:
        if claim.aggregate == "baseline":
            found.setdefault(claim.figure, (claim.quantity, claim.place))
    for reading in readings:
        for said in reading.said:
            if said.meaning == "baseline":
                found.setdefault(said.unit, (said.quantity, said.place))
    if not found:
        return None
    bpb, nats = found.get("val_bpb"), found.get("val_loss")
    return Baseline(
        "the stated baseline",
        "means as stated in " + ", ".join(dict.fromkeys(str(place) for _, place in found.values())),
        mean_bpb=bpb[0] if bpb else None,
        mean_nats=nats[0] if nats else None,
    )


# --- one figure -------------------------------------------------------------------------------------


def _check(said: Said, evidence: Evidence, baseline: Baseline | None) -> Finding | None:
    subject = f"{said.field or said.place}: {_MEANINGS.get(said.meaning) or said.key}"
    if said.unit:
        subject += " in nats" if said.unit == "val_loss" else " in BPB"
    if said.meaning == "setting":
        finding = check_setting(subject, said.key, said.quantity, said.place, evidence)
        if finding.status == "problem":
            # Texts use short names, "lr", for several things; only a field of the file names just one.
            return replace(finding, status="note", detail=f"{finding.detail}, if that is what the text means")
        return None if finding.status == "absent" else finding
    if said.meaning == "seeds":
        return _seeds(said, subject, evidence)
    if said.meaning == "xsa":
        return _xsa(said, subject, evidence)
    if said.meaning == "score":
        return _score(said, subject, evidence)
    if said.meaning == "baseline":
        return _baseline(said, subject, baseline)
    if said.meaning in ("delta", "t", "df", "p"):
        return check_comparisons([_claim(said, subject, said.meaning)], evidence.final, baseline)[0]
    if said.meaning == "bytes":
        return _bytes(said, subject, evidence)
    if said.meaning in ("steps", "ms_per_step"):
        return check(_claim(said, subject, "", said.meaning), evidence)
    return check(_claim(said, subject, "sd" if said.meaning == "sd" else "mean"), evidence)


def _claim(said: Said, subject: str, aggregate: Aggregate, figure: str = "") -> Claim:
    return Claim(subject, figure or said.unit, said.quantity, None, aggregate, "", said.place)


def _seeds(said: Said, subject: str, evidence: Evidence) -> Finding:
    n, text = len(evidence.runs), said.quantity.text
    detail = "logs, one for each seed"
    if said.quantity.value == n:
        return Finding("submission", subject, "ok", "confirmed", text, str(n), detail, (said.place,))
    return Finding("submission", subject, "problem", "differs", text, str(n), detail, (said.place,))


def _xsa(said: Said, subject: str, evidence: Evidence) -> Finding | None:
    logged, layers = evidence.setting("xsa_last_n"), evidence.setting("num_layers")
    if not logged:
        return None
    value = logged[0]
    words = f"the log: the last {value.text} layers"
    if said.key == "all" and not layers:
        return Finding("submission", subject, "note", "stated", "all", value.text, words, (said.place, value.place))
    claimed = layers[0].value if said.key == "all" else said.quantity.value
    where = (said.place, value.place)
    if value.value == claimed:
        return Finding("submission", subject, "ok", "confirmed", said.key, value.text, words, where)
    return Finding("submission", subject, "problem", "differs", said.key, value.text, words, where)


def _score(said: Said, subject: str, evidence: Evidence) -> Finding | None:
    """A score of which the text does not say whose: any that the logs give will do."""
    claim = _claim(said, subject, "mean")
    found = check(claim, evidence)
    if found.status == "ok":
        return found
    for run, figure in evidence.everywhere(said.unit):
        verdict = agreement(said.quantity, figure.quantity)
        if verdict != "differs":
            detail = f"'{figure.label}' in the log of {run.key}"
            text, where = value_text(figure.quantity, said.unit), (said.place, figure.place)
            return Finding("submission", subject, "ok", verdict, said.quantity.text, text, detail, where)
    detail = "no log gives it, and the text does not say what it is"
    return Finding("submission", subject, "note", "not in the logs", said.quantity.text, "", detail, (said.place,))


def _bytes(said: Said, subject: str, evidence: Evidence) -> Finding:
    """A size of which the text does not say whose: one that the logs give, or a file of the folder."""
    text, claimed = said.quantity.text, said.quantity
    for name in ("total_bytes", "code_bytes", "weight_bytes", "raw_bytes"):
        for run, figure in evidence.everywhere(name):
            verdict = agreement(claimed, figure.quantity)
            if verdict != "differs":
                detail, where = f"{name.replace('_', ' ')} in the log of {run.key}", (said.place, figure.place)
                return Finding("submission", subject, "ok", verdict, text, f"{figure.value:,.0f} bytes", detail, where)
    for name, size in evidence.folder.sizes.items():
        verdict = agreement(claimed, Quantity(float(size), 0.0, ""))
        if verdict != "differs":
            detail, where = f"the size of {name}", (said.place, Place(name, 0))
            return Finding("submission", subject, "ok", verdict, text, f"{size:,} bytes", detail, where)
    detail = "no log gives it, and no file of the folder has this size"
    return Finding("submission", subject, "note", "not in the logs", text, "", detail, (said.place,))


def _baseline(said: Said, subject: str, baseline: Baseline | None) -> Finding:
    text = said.quantity.text
    known = baseline is not None and baseline.bpb
    mean = None
    if baseline is not None and known:
        mean = baseline.mean_bpb if said.unit == "val_bpb" else baseline.mean_nats
    if baseline is None or mean is None:
        detail = "a baseline's figure, which these logs cannot show"
        return Finding("submission", subject, "absent", "not in the logs", text, "", detail, (said.place,))
    verdict = agreement(said.quantity, mean, computed=True)
    found, detail = value_text(mean, said.unit), f"mean over the {len(baseline.bpb)} logs of {baseline.name}"
    if verdict != "differs":
        return Finding("submission", subject, "ok", verdict, text, found, detail, (said.place,))
    if baseline.assumed:
        detail += "; the text may speak of another baseline"
        return Finding("submission", subject, "note", "differs", text, found, detail, (said.place,))
    return Finding("submission", subject, "problem", "differs", text, found, detail, (said.place,))


def _in_both_units(reading: Reading, evidence: Evidence) -> Iterator[Finding]:
    """A difference given in BPB and in nats: the two must be in the ratio of the logs' own scores."""
    final = evidence.final
    if final is None or final.bpb is None or final.nats is None or not final.bpb.mean > 0:
        return
    ratio = final.nats.mean / final.bpb.mean
    for one, other in zip(reading.said, reading.said[1:], strict=False):
        if (one.meaning, one.unit, other.meaning, other.unit) != ("delta", "val_bpb", "delta", "val_loss"):
            continue
        value = Quantity(one.quantity.value * ratio, one.quantity.resolution * ratio, "")
        subject = f"{one.field or one.place}: a difference in both units"
        detail = (
            f"{one.quantity.text} BPB at the logs' {ratio:.5f} nats per BPB, against the {other.quantity.text} stated"
        )
        claimed = f"{one.quantity.text} BPB = {other.quantity.text} nats"
        found = f"{value.value:.5f} nats"
        where = (one.place,)
        if agreement(other.quantity, value, computed=True) == "differs":
            yield Finding("statistics", subject, "problem", "fails", claimed, found, detail, where)
        else:
            yield Finding("statistics", subject, "ok", "holds", claimed, found, detail, where)


def _as(finding: Finding, topic: Topic) -> Finding:
    kept = finding.topic if finding.topic == "statistics" else topic
    return replace(finding, topic=kept)
