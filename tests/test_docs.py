"""The documentation, held to what there is: links, pictures, commands, paths."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from test_house import LEVELS

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "dashboards/grafana/README.md")
PAGES = [*(REPO / name for name in BESIDE), *sorted(DOCS.rglob("*.md"))]
MOST_PAGES, LONGEST_README = 16, 150
"""Pages under docs/, and lines of the way in: more are not kept true."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"(?<![\w./-])(?:golf_core|orchestrator|dashboards|tests|benchmarks|jobs|docs)/[\w./-]+\.\w+")
OF_THE_READER = {"jobs/mine.yaml"}
"""Files that a page tells its reader to make."""
HOSTS = {"github.com", "docs.ray.io", "huggingface.co", "keepachangelog.com", "semver.org", "127.0.0.1", "localhost"}
SVG = "{http://www.w3.org/2000/svg}"
CALL = re.compile(r"^\| \d+ \| ((?:· )*)`(\w+\.[\w.]+)`", re.MULTILINE)
"""A row of the architecture's list of calls: how deep it lies, and what is called."""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


def prose_of(text: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text)


def links_of(page: Path) -> Iterator[tuple[bool, str, str]]:
    """Whether it is a picture, its text, and where it leads."""
    for picture, text, target in LINK.findall(INLINE.sub("code", prose_of(page.read_text(encoding="utf-8")))):
        yield bool(picture), text, target


def anchors_of(page: Path) -> set[str]:
    """What headings can be linked to, spelt as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- links and pictures ---


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for picture, text, target in links_of(page):
        assert text, f"{target} has no text to read out"
        address, _, anchor = target.partition("#")
        if address.startswith(("http://", "https://")):
            continue
        place = (page.parent / address).resolve() if address else page
        assert place.is_file(), f"{target}: no such file"
        assert place.is_relative_to(REPO), f"{target}: leaves the project"
        if picture:
            assert len(text) > 20, f"{target}: say what the picture shows"
        if anchor:
            assert anchor in anchors_of(place), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_addresses_are_public_and_paths_are_nobodys_own(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    hosts = {host.partition(":")[0] for host in re.findall(r"https?://([\w.:-]+)", text)}
    made_up = {host for host in hosts if "." not in host or re.search(r"\bexample(\.\w+)?$", host)}
    assert hosts - made_up <= HOSTS
    assert re.findall(r"(?<![\w.-])/(?:home|root|work|Users)/\w+", text) == []
    assert re.findall(r"\b(?:TODO|FIXME|XXX)\b", text) == []


def test_every_page_is_in_the_index() -> None:
    linked = {target.partition("#")[0] for _, _, target in links_of(DOCS / "README.md")}
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"} <= linked


def test_there_are_few_pages_and_the_way_in_is_short() -> None:
    assert len(list(DOCS.rglob("*.md"))) <= MOST_PAGES
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) < LONGEST_README


@pytest.mark.parametrize("picture", sorted(DOCS.rglob("*.svg")), ids=name_of)
def test_diagrams_have_a_title_a_ground_and_text(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title")
    ground = root.find(f"{SVG}rect")
    assert ground is not None and ground.get("fill", "none") != "none", "dark pages need a ground below the dark text"
    width, height = (float(root.get(side, "0")) for side in ("width", "height"))
    texts = list(root.iter(f"{SVG}text"))
    assert texts
    for text in texts:
        assert 0 <= float(text.get("x", "-1")) <= width and 0 <= float(text.get("y", "-1")) <= height


# --- one seed's way ---


def found_at(name: str) -> tuple[ModuleType, Any]:
    """The module that a dotted name lies in, and what it names."""
    parts = (name if name.startswith("golf_core.") else f"orchestrator.{name}").split(".")
    depth = next(n for n in range(len(parts) - 1, 0, -1) if is_module(".".join(parts[:n])))
    module = importlib.import_module(".".join(parts[:depth]))
    return module, attrgetter(".".join(parts[depth:]))(module)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a part of it is a class
        return False


def level_of(name: str) -> int:
    """The level of a call's package: the root of the service above all, the science below."""
    return -1 if name.startswith("golf_core.") else LEVELS.get(name.partition(".")[0], 1 + max(LEVELS.values()))


def test_one_seeds_way_is_the_codes_and_goes_down() -> None:
    calls = [
        (len(dots) // 2, name) for dots, name in CALL.findall((DOCS / "architecture.md").read_text(encoding="utf-8"))
    ]
    assert len(calls) > 15
    callers: list[str] = []
    for depth, name in calls:
        _, called = found_at(name)
        assert callable(called)
        del callers[depth:]
        assert len(callers) == depth, f"{name}: no call stands above it"
        if callers:
            caller, _ = found_at(callers[-1])
            if callers[-1] != "run.rank.Rank.work_on":  # which calls the function of the stage's name
                assert name.rpartition(".")[2] in inspect.getsource(caller), f"{callers[-1]} does not call {name}"
            assert level_of(name) <= level_of(callers[-1]) or name.startswith("plugins."), f"{name} goes up"
        callers.append(name)


# --- commands ---


@cache
def commands() -> dict[str, Any]:
    """Every command of `golf` by its words, those of the dashboards too."""
    from typer.main import get_command

    from dashboards.commands import add_commands
    from orchestrator.cli import app

    shows = typer.Typer()
    add_commands(shows)

    def of(group: Any, words: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, command in group.commands.items():
            inner = of(command, f"{words}{name} ") if hasattr(command, "commands") else {f"{words}{name}": command}
            found |= inner
        return found

    return of(get_command(app), "") | of(get_command(shows), "")


def named(words: list[str]) -> tuple[str, list[str]]:
    """The command that the words after `golf` name, and its arguments."""
    for length in (2, 1):
        if " ".join(words[:length]) in commands():
            return " ".join(words[:length]), words[length:]
    raise AssertionError(f"golf {' '.join(words)}: no such command")


def quoted_lines(page: Path) -> list[str]:
    """The lines of a page's blocks of code that call `golf`, with continued ones put together."""
    blocks = [
        body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind in ("", "sh", "bash", "console")
    ]
    lines = [line.strip() for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"golf( |$)", line)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quoted_commands_can_be_called(page: Path) -> None:
    for line in quoted_lines(page):
        name, arguments = named(shlex.split(line, comments=True)[1:])
        try:
            commands()[name].make_context(name, arguments)
        except Exception as error:  # click's own, which typer may carry inside itself
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_within_sentences_exist(page: Path) -> None:
    for span in INLINE.findall(prose_of(page.read_text(encoding="utf-8"))):
        words = span.split()
        if words[:1] != ["golf"] or len(words) < 2 or words[1].startswith("-") or words[1] == "COMMAND":
            continue
        name, rest = named(words[1:])
        options = {option for parameter in commands()[name].params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, span


@pytest.mark.parametrize("name", ["job.md", "write_a_job.md"])
def test_quoted_parts_of_job_files_are_read(name: str, tmp_path: Path) -> None:
    from orchestrator.job.load import load_job

    bodies = [body for kind, body in FENCE.findall((DOCS / name).read_text(encoding="utf-8")) if kind == "yaml"]
    assert bodies
    for number, body in enumerate(bodies):
        given = yaml.safe_load(body) or {}
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({"name": "x", "preset": "small", "seeds": [1], "data": "sample"} | given))
        load_job(path)


def test_the_index_names_every_command() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [name for name in commands() if f"`golf {name}" not in text] == []


def test_make_has_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named_ones = {
        name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)\b *(?:#|`|$)", page.read_text("utf-8"))
    }
    assert {"demo", "test", "test-all"} <= named_ones & targets
    assert named_ones <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    for place in PLACE.findall(page.read_text(encoding="utf-8")):
        assert place in OF_THE_READER or (REPO / place).exists(), f"{place}: no such file"
