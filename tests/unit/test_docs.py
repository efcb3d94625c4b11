"""The documentation says what the code does: every command, option, exit code, key, rule and link."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from ovfbuild import errors
from ovfbuild.cli.main import EXIT_CODES, cli
from ovfbuild.spec import appliance
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.table import Table
from ovfbuild.spec.targets import Targets
from ovfbuild.verify import catalogue

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
MAN_1 = DOCS / "man" / "ovfbuild.1"
MAN_5 = DOCS / "man" / "appliance.toml.5"

ELSEWHERE = "/" + "work/"
"""A folder of the machine on which this was written. Not as one word: this file is looked through, too."""


def section(page: Path, title: str) -> str:
    """What stands under a .SH of a page."""
    return page.read_text(encoding="utf-8").partition(f".SH {title}\n")[2].partition("\n.SH ")[0]


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """("cache prune", its command) of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def options() -> Iterator[str]:
    for _, command in [("", cli), *commands()]:
        for parameter in command.get_params(click.Context(command)):
            if isinstance(parameter, click.Option):
                yield from parameter.opts


COMMANDS = [name for name, _ in commands()]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_man_page_has_every_command(name: str) -> None:
    source = MAN_1.read_text(encoding="utf-8")
    assert f".SS {name}\n" in source, "under COMMANDS"
    assert f".SY ovfbuild\\ {name.replace(' ', chr(92) + ' ')}\n" in source, "in the SYNOPSIS"


def test_the_man_page_has_no_other_command() -> None:
    assert set(re.findall(r"(?m)^\.SS (.+)$", section(MAN_1, "COMMANDS"))) == set(COMMANDS)


def documented_options() -> set[str]:
    """The options that head an entry under OPTIONS."""
    text = section(MAN_1, "OPTIONS").replace("\\-", "-").replace("\\~", " ")
    heads = re.findall(r"(?m)^\.TP\n(.*)$", text)
    return {word for head in heads for word in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", head)}


def test_the_man_page_has_every_option_and_no_other() -> None:
    assert documented_options() == {*options(), "-h", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_every_command(name: str) -> None:
    assert re.search(rf"`(ovfbuild )?{name}\b", README.read_text(encoding="utf-8"))


def exit_codes() -> set[int]:
    classes: list[type[errors.OvfbuildError]] = [errors.OvfbuildError, *errors.OvfbuildError.__subclasses__()]
    return {0, errors.INTERRUPTED, *(kind.exit_code for kind in classes)}


def test_every_exit_code_is_told() -> None:
    assert set(map(int, re.findall(r"(?m)^ +(\d+) ", EXIT_CODES))) == exit_codes(), "by --help"
    assert set(map(int, re.findall(r"(?m)^\.B (\d+)$", section(MAN_1, "EXIT STATUS")))) == exit_codes()
    told = README.read_text(encoding="utf-8").partition("Exit codes:")[2].partition(".\n")[0]
    assert set(map(int, re.findall(r"\d+", told))) == exit_codes()


def kinds(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from kinds(inner)


def keys(model: type[Table]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for kind in kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Table):
                yield from keys(kind)


@pytest.mark.parametrize("key", sorted(set(keys(Appliance))))
def test_every_key_is_in_its_man_page(key: str) -> None:
    """As the head of an entry, or, of a table, as that of a section."""
    entry, table = rf'\.BR {key} " \(', rf"\.S[HS] \[+([a-z_]+\.)?{key}\]+"
    assert re.search(rf"(?m)^({entry}|{table}$)", MAN_5.read_text(encoding="utf-8"))


RAISED_BY = {"Finding": 0, "Fault": 0, "_Damage": 0, "_about": 1, "_fault": 0, "_mind": 0, "_error": 0}
"""The calls that name a rule, and which of their arguments it is."""


def raised() -> set[str]:
    """The rules that calls name as a word."""
    found = set()
    for path in [*(ROOT / "ovfbuild" / "verify").glob("*.py"), *(ROOT / "ovfbuild" / "formats").glob("*_reader.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in RAISED_BY and len(node.args) > RAISED_BY[name]:
                word = node.args[RAISED_BY[name]]
                found |= {str(word.value)} if isinstance(word, ast.Constant) else set()
    return found


def test_every_rule_that_is_raised_is_in_the_catalogue() -> None:
    """That each of the catalogue is raised, too, is in verify/test_rules.py: by a package that breaks it."""
    assert len(raised()) > 60, "they are found in the code"
    assert raised() - set(catalogue.rules()) == set()


def test_the_page_has_the_rules_as_they_are() -> None:
    """Made anew by: python -m ovfbuild.verify.catalogue docs/formats.md"""
    text = (DOCS / "formats.md").read_text(encoding="utf-8")
    assert text.partition(catalogue.BEGIN)[2].partition(catalogue.END)[0].strip() == catalogue.page().strip()


def test_the_man_page_has_every_importer() -> None:
    text = MAN_1.read_text(encoding="utf-8").replace("\\-", "-")
    named = set(re.findall(r"[\w.-]+", text.partition(".BI --for")[2].partition(".TP\n")[0]))
    assert set(catalogue.importers()) - named == set()


def test_every_rule_is_about_a_part_and_hits_importers_that_are_known() -> None:
    for rule in catalogue.rules().values():
        assert f"`{rule.id}`" in catalogue.page()
        assert {effect.importer for effect in rule.effects} <= set(catalogue.importers()), rule.id
        assert rule.level in ("error", "warning", "note")


PAGES = [README, *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """`spec/plan.py` and the like, seen from the root or from the package."""
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|rng|5|1)|descriptors/[\w.-]+|scripts/[\w-]+)`", page.read_text())
    missing = [name for name in named if not any((root / name).exists() for root in (ROOT, ROOT / "ovfbuild"))]
    assert missing == []


def toml_blocks(page: Path) -> list[dict[str, Any]]:
    return [tomllib.loads(text) for text in re.findall(r"(?ms)^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    "page", [README, DOCS / "clouds.md", *sorted((DOCS / "clouds").glob("*.md"))], ids=lambda page: page.name
)
def test_the_targets_in_the_pages_load(page: Path, tmp_path: Path) -> None:
    tables = [table for table in toml_blocks(page) if "publish" in table]
    for table in tables:
        Targets.model_validate(table, context={"folder": tmp_path})
    assert tables


def test_the_readme_s_appliance_loads(tmp_path: Path) -> None:
    table = next(table for table in toml_blocks(README) if "publish" not in table)
    for entry in [*table.get("files", ()), *table.get("scripts", ())]:
        if "source" in entry:
            path = tmp_path / entry["source"]
            (path if entry["source"].endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            (path / "index.html" if path.is_dir() else path).write_text("#!/bin/sh\n")
    if "user_data" in table.get("cloud_init", {}):
        (tmp_path / table["cloud_init"]["user_data"]).write_text("#cloud-config\n{}\n")
    loaded = appliance.from_table(table, tmp_path)
    assert f"dist/{loaded.name}-{loaded.version}.ova" in README.read_text(encoding="utf-8")


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    assert "README.md" in names
    told = [name for name in names if ELSEWHERE.encode() in (ROOT / name).read_bytes()]
    assert told == []
