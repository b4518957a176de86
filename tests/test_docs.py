"""The documents name what there is: every public name, every option of a stage, and only commands that exist."""

import ast
import functools
import importlib
import re
import shlex

import pytest
import typer

import neuromeld
from neuromeld.cli.app import COMMANDS, UsageError, build_app
from neuromeld.stages import STAGES
from result_tables import BLOCK, ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def test_every_public_name_is_in_the_api():
    documented = re.findall(
        r"^::: neuromeld\.(?:\w+\.)?(\w+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(documented) == sorted(set(neuromeld.__all__) - {"__version__"})


@pytest.mark.parametrize("name", sorted(set(neuromeld.__all__) - {"__version__"}))
def test_every_public_name_has_a_docstring(name):
    assert getattr(neuromeld, name).__doc__


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_every_stage_has_a_page_with_its_options(stage):
    page = ROOT / f"docs/stages/{stage}.md"
    assert f"options-{stage}" in [name for _, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert f"stages/{stage}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every `neuromeld ...` in a shell block of a document."""
    blocks = (
        block
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    )
    lines = (
        line for block in blocks for line in block.replace("\\\n", "").split("\n") if line.startswith("neuromeld ")
    )
    return sorted({shlex.join(shlex.split(line, comments=True)) for line in lines})


@functools.cache
def command(name: str):
    """One command of the program, as click has it."""
    return typer.main.get_group(build_app(name)).commands[name]


@pytest.mark.parametrize("line", commands())
def test_commands_in_documents_parse(line):
    """A command with an option that does not exist, or a value of the wrong type, does not parse."""
    words = shlex.split(line.partition(" '>'")[0])[1:]
    assert words[0] in COMMANDS
    assert command(words[0]).make_context(words[0], words[1:]).params


def test_a_command_that_does_not_exist_is_seen():
    with pytest.raises(UsageError):
        command("plan").make_context("plan", ["MODEL", "--merge-ffs", "3"])


@pytest.mark.parametrize("script", sorted(ROOT.glob("benchmarks/**/*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_there_is(script):
    """They are run by hand, and seldom: a name that is gone would be found then."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("neuromeld"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
