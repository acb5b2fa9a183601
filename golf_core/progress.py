"""One line of text for each event."""

from __future__ import annotations

from golf_core.events import Event


def describe(event: Event) -> str:
    """The line that a person reads: what, how far, how fast, how long still."""
    f = event.fields
    if event.kind == "train_step":
        return (
            f"train {f['step']}/{f['total']}  loss {f['loss']:.4f}  lr x{f['lr_factor']:.2f}  "
            f"{f['ms_per_step']:.1f} ms/step  {f['tokens_per_s']:,.0f} tok/s  ETA {duration(f['eta_s'])}"
        )
    if event.kind == "chunk":
        names = ("neural", "mixture", "published")
        running = "  ".join(f"{name} {f[f'bpb_{name}']:.4f}" for name in names if f"bpb_{name}" in f)
        return f"evaluate chunk {f['chunk']}/{f['total']}  BPB {running}  ETA {duration(f['eta_s'])}"
    if event.kind == "validation":
        return f"validation at step {f['step']}: {f['val_loss']:.4f} nats/token, {f['val_bpb']:.4f} BPB"
    if event.kind == "phase_started":
        return f"{f['phase']} begins"
    if event.kind == "phase_finished":
        sizes = f": {f['weight_bytes']:,} + {f['code_bytes']:,} bytes, {f['method']}" if "method" in f else ""
        return f"{f['phase']} done in {duration(f['seconds'])}{sizes}"
    return str(f.get("message", event.kind))


def duration(seconds: float) -> str:
    """Seconds as '4.2 s', '3 min 20 s' or '1 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
