"""A run in the terminal: a table that changes while it goes on, plain lines where there is no terminal, and a list.

Texts of files are never read as markup, and every colour has its word beside it. The tables fit 80 columns.
"""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dashboards.live import Damaged, Registry, RunState, state_of
from golf_core.errors import ConfigError
from golf_core.events import Event, Gpu, System
from golf_core.files import open_plain
from golf_core.log_text import describe, duration
from golf_core.strict_json import printable
from orchestrator.folder.event_log import Tail
from orchestrator.folder.seed_log import TAIL_LINES
from orchestrator.folder.view import AttemptView, RunReader, SeedView, find_runs

LOOK_EVERY_S = 0.5
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""
HEADING = 2
"""Lines above the tail of a log."""
WIDE = 118
"""Columns from which `golf ls` has a line for each run instead of two."""
NAME_WIDTH = 24
"""Columns of a run's name at the most, where room is short: a longer one is folded."""
MIB_PER_GIB = 1024.0
TITLES = ("run", "started", "status", "duration", "seeds", "mixture BPB", "± sd", "cost")
TWO_LINES: list[tuple[str, ...]] = [
    ("run", "started"),
    ("status", "duration"),
    ("seeds",),
    ("mixture BPB", "± sd"),
    ("cost",),
]
"""Columns of `golf ls`, of a line each and of two."""
STYLES = {
    "running": "cyan",
    "starting": "cyan",
    "queued": "dim",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "bold yellow",
    "stopped": "bold yellow",
    "damaged": "bold red",
    "claim": "bold green",
    "no claim": "bold red",
    "too few seeds": "bold yellow",
    "out of reach": "bold red",
}


def watch_run(folder: Path, once: bool) -> int:
    """Show the run in `folder` until it is over, or `once` as it stands.

    Returns the exit code: 0 where all seeds finished (or, with `once`, may still do so), 1 where the run failed or
    was stopped or interrupted, 130 after Ctrl-C, which leaves the run alone. Raises `ConfigError` where the folder
    is not a run's.
    """
    console, reader = _console(), RunReader(folder)
    try:
        if once:
            state = look(reader)
            console.print(run_view(state, TAIL_LINES))
            return 0 if state.status == "running" else exit_code(state)
        if console.is_terminal and not console.is_dumb_terminal:
            return exit_code(_watch_live(console, reader))
        return exit_code(_watch_plain(console, reader))
    except KeyboardInterrupt:
        return INTERRUPTED


def list_runs(output: Path) -> None:
    """Print the runs in the folder `output`, the newest first; one that cannot be read is listed with the reason."""
    console, registry = _console(), Registry(output)
    runs = [run for folder in find_runs(output) if (run := registry.one(folder.name)) is not None]
    if not runs:
        line = f"no runs in {printable(str(output))}; golf run with a job file makes one"
        console.print(Text(line), soft_wrap=True)
        return
    if not console.is_terminal:  # a file has room for whole lines
        console = Console(width=max(console.width, WIDE + 40))
    console.print(runs_table(runs, console.width >= WIDE))


def look(reader: RunReader) -> RunState:
    """The run as it stands. Raises `ConfigError` where the folder is not a run's, or is gone."""
    try:
        return state_of(reader)
    except OSError as error:
        raise ConfigError(
            f"{reader.folder}: is no run's folder ({error.strerror or error}); golf ls lists the runs"
        ) from None


def exit_code(state: RunState) -> int:
    """0 where the run is over and all its seeds finished, else 1."""
    return int(state.status != "finished" or any(seed.status != "finished" for seed in state.seeds))


def _console() -> Console:
    """Standard output; a character that it cannot show ends nothing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console()


# --- a terminal -----------------------------------------------------------------------------------


def _watch_live(console: Console, reader: RunReader) -> RunState:
    state = look(reader)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while state.status == "running":
            live.update(_fitting(console, state), refresh=True)
            time.sleep(LOOK_EVERY_S)
            state = look(reader)
        live.vertical_overflow = "visible"  # what stays on the screen is whole
        live.update(_fitting(console, state), refresh=True)
    return state


def _fitting(console: Console, state: RunState) -> RenderableType:
    """The view with as much of the logs as the screen has room for."""
    bare = len(console.render_lines(run_view(state, 0), pad=False))
    tails = len(_with_tails(state))
    room = console.height - 1 - bare - HEADING * tails
    return run_view(state, min(TAIL_LINES, room // tails) if tails and room > 0 else 0)


def run_view(state: RunState, tail_lines: int) -> Group:
    """Everything about a run at a glance, with up to `tail_lines` lines of each active seed's log."""
    parts: list[RenderableType] = [_title(state), _seeds_table(state.seeds)]
    for seed in state.seeds:
        if seed.error and seed.status in ("failed", "interrupted"):
            parts.append(Text.assemble((f"seed {seed.seed} {seed.status}: ", STYLES[seed.status]), (seed.error, "")))
    for seed in _with_tails(state) if tail_lines > 0 else ():
        parts.append(Text(f"\nlog of seed {seed.seed}", "bold"))
        parts += [Text(printable(line), "dim", no_wrap=True, overflow="crop") for line in seed.tail[-tail_lines:]]
    parts.append(Text.assemble(("\nverdict: ", "bold"), (printable(state.sentence), STYLES.get(state.verdict, ""))))
    return Group(*parts)


def _with_tails(state: RunState) -> list[SeedView]:
    return [seed for seed in state.seeds if seed.tail and seed.status in ("starting", "running")]


def _title(state: RunState) -> RenderableType:
    queue = [str(seed.seed) for seed in state.seeds if seed.status == "queued"]
    gangs: dict[str, list[str]] = {}
    for seed in state.seeds:
        if seed.status in ("starting", "running"):
            gangs.setdefault(seed.node or "a node", []).append(str(seed.seed))
    line = Text(printable(state.run_id), "bold")
    line.append(f"  {state.status}", STYLES[state.status])
    line.append(f"  {duration(state.seconds)}")
    facts = [("gang", f"{_named(seeds)} on {printable(node)}") for node, seeds in gangs.items()]
    facts += [("queue", _named(queue)), ("hardware", printable(state.view.hardware)), ("cost", _cost(state))]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        if fact:
            grid.add_row(name, Text(fact))
    return Group(line, grid, Text(""))


def _named(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else ""


def _seeds_table(seeds: Sequence[SeedView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("seed", justify="right", overflow="fold")
    table.add_column("phase", no_wrap=True, overflow="crop")
    table.add_column("progress\nloss", ratio=1, min_width=8)
    for title in ("steps\nETA / took", "loss\nms/step", "BPB\nbytes", "memory\nload"):
        table.add_column(title, justify="right", no_wrap=True, overflow="crop")
    table.expand = True
    for seed in seeds:
        table.add_row(*_cells(seed))
    return table


def _cells(seed: SeedView) -> Iterator[RenderableType]:
    yield str(seed.seed)
    word = seed.phase if seed.status == "running" and seed.phase else seed.status
    yield Group(
        Text(printable(word), STYLES.get(seed.status, "")),
        Text(f"attempt {seed.attempt}" if seed.attempt > 1 else "", "dim"),
    )
    whole = seed.status == "finished"
    done, total = (1, 1) if whole else (seed.done, seed.total)
    pictures = Table.grid(expand=True)
    pictures.add_row(ProgressBar(total=max(total, 1), completed=min(done, total)))
    pictures.add_row(Sparkline([y for _, y in seed.loss_series]))
    yield pictures
    count = f"{seed.done:,}/{seed.total:,}" if seed.total and not whole else ""
    left = duration(max(seed.eta_s, 0.0)) if seed.eta_s is not None and seed.status == "running" else ""
    yield Text(f"{count or '-'}\n{left or seed.took or '-'}")
    yield Text(f"{_number(seed.loss, 4)}\n{_number(seed.ms_per_step, 1)}")
    bpb = seed.bpb.get("mixture", seed.bpb.get("neural", seed.val_bpb))
    yield Text(f"{_number(bpb, 5)}\n{_number(seed.artifact_bytes, 0)}")
    yield Text("\n".join(_load(seed)) if seed.status == "running" else "-\n-")


@dataclass(frozen=True)
class Sparkline:
    """A curve in one line of blocks, from its lowest value to its highest, as wide as there is room."""

    values: Sequence[float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = "_.-=*#" if options.ascii_only else "▁▂▃▄▅▆▇█"
        yield Text(sparkline(self.values, options.max_width, levels), "cyan")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


def sparkline(values: Sequence[float], width: int, levels: str) -> str:
    """`values` as at most `width` of the characters `levels`, the lowest first; each stands for a mean."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    top = len(levels) - 1
    return "".join(levels[round((mean - low) / span * top) if span > 0 else 0] for mean in means)


def _load(seed: SeedView) -> tuple[str, str]:
    """Memory and utilisation of the gang's GPUs together, or of the machine where it has none."""
    system = seed.system
    if system is None:
        return "-", "-"
    parts: Sequence[System | Gpu] = system.gpus or (system,)
    used, whole = _sum([part.memory_mib for part in parts]), _sum([part.memory_total_mib for part in parts])
    load = _sum([gpu.utilisation_percent for gpu in system.gpus] or [system.cpu_percent])
    memory = "-" if used is None or whole is None else f"{used / MIB_PER_GIB:.1f}/{whole / MIB_PER_GIB:.0f}G"
    return memory, "-" if load is None else f"{'GPU' if system.gpus else 'CPU'} {load / len(parts):.0f}%"


def _sum(figures: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None


# --- plain lines ----------------------------------------------------------------------------------


def _watch_plain(console: Console, reader: RunReader) -> RunState:
    follower, said = _Follower(), set[tuple[int, int]]()

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    while True:
        state = look(reader)
        for line in follower.new_lines(reader.view.attempts):
            say(line)
        for seed in state.seeds:
            if seed.status in ("finished", "failed") and (seed.seed, seed.attempt) not in said:
                said.add((seed.seed, seed.attempt))
                say(_ending(seed))
        if state.status != "running":
            say(f"{printable(state.run_id)}: {state.status} after {duration(state.seconds)}; {_cost(state)}")
            say(printable(state.sentence))
            return state
        console.file.flush()
        time.sleep(LOOK_EVERY_S)


@dataclass
class _Follower:
    """Tells each line of the logs once: the last few that it finds, then all that come."""

    _read: dict[tuple[int, int], Tail] = field(default_factory=dict)
    _begun: bool = False

    def new_lines(self, attempts: Sequence[AttemptView]) -> Iterator[str]:
        logs = {(attempt.seed, attempt.number): attempt.log for attempt in attempts}
        for attempt in attempts:
            key = (attempt.seed, attempt.number)
            if key not in self._read:
                if self._begun:
                    told = _taken_over(logs.get((attempt.seed, attempt.number - 1)), attempt.log)
                else:  # one that is not the newest was over and done with before the watch began
                    told = 0 if attempt.newest else sys.maxsize
                self._read[key] = Tail(attempt.log, told)
            tail = self._read[key]
            tail.path = attempt.log  # where it is kept when the next attempt's has taken its place
            lines = [line for event in tail.events() if (line := _told(event, attempt)) is not None]
            yield from lines if self._begun else lines[-TAIL_LINES:]
        self._begun = True


def _taken_over(earlier: Path | None, log: Path) -> int:
    """Bytes at the beginning of `log` that come from the log of the attempt before: they have been told."""
    if earlier is None:
        return 0
    try:
        with open_plain(earlier) as old, open_plain(log) as new:
            pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
            return sum(len(line) for _, line in pairs)
    except OSError:
        return 0


def _told(event: Event, attempt: AttemptView) -> str | None:
    """What happened as people read it; None for samples of the machine, and for what cannot be said."""
    try:
        return None if isinstance(event, System) else f"seed {attempt.seed}: {printable(describe(event))}"
    except (ValueError, ArithmeticError):
        return None


def _ending(seed: SeedView) -> str:
    if seed.status == "failed":
        return f"seed {seed.seed}: failed after {seed.took}: {printable(seed.error)}"
    scores = ", ".join(f"{name} {value:.5f}" for name, value in seed.bpb.items())
    size = f", {seed.artifact_bytes:,} bytes" if seed.artifact_bytes is not None else ""
    return f"seed {seed.seed}: finished in {seed.took}" + (f", BPB {scores}" if scores else "") + size


# --- a list ---------------------------------------------------------------------------------------


def runs_table(runs: Sequence[RunState | Damaged], wide: bool) -> Table:
    """A row for each run: of one line where there is room, else of two."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    columns = [(name,) for name in TITLES] if wide else TWO_LINES
    for names in columns:
        justify: JustifyMethod = "left" if names[0] in TITLES[:4] else "right"
        table.add_column("\n".join(names), justify=justify, no_wrap=names[0] not in TITLES[:2], overflow="fold")
    if not wide:
        table.columns[0].width = min(NAME_WIDTH, max(len(run.run_id) for run in runs))
    table.add_column("verdict", overflow="fold")
    for run in runs:
        cells, last = _row(run)
        style = STYLES.get(cells["status"], "")
        shown = [("\n".join(cells[name] for name in names).rstrip(), names) for names in columns]
        table.add_row(*(Text(text, style if "status" in names else "") for text, names in shown), last)
    return table


def _row(run: RunState | Damaged) -> tuple[dict[str, str], Text]:
    """Cells by the names of their columns, and the last one."""
    cells = dict.fromkeys(TITLES, "-") | {"run": printable(run.run_id), "status": "damaged", "± sd": ""}
    if isinstance(run, Damaged):
        return cells, Text(run.reason)
    cells |= {
        "started": run.started,
        "status": run.status,
        "duration": duration(run.seconds),
        "seeds": f"{run.finished}/{len(run.seeds)}",
        "cost": _number(run.cost, 2),
    }
    if run.mixture is not None:
        cells["mixture BPB"] = f"{run.mixture.mean:.5f}"
        cells["± sd"] = "" if run.mixture.sd is None else f"± {run.mixture.sd:.5f}"
    return cells, Text(run.verdict, STYLES.get(run.verdict, ""))


# --- words ----------------------------------------------------------------------------------------


def _cost(state: RunState) -> str:
    hours = f"{state.node_hours:.2f} node hours"
    return f"{hours} (the job names no price)" if state.cost is None else f"{state.cost:,.2f} so far, {hours}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
