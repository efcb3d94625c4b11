"""The commands. Nothing else prints, and nothing else exits."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click
from rich.console import Console

from ovfbuild import __version__, errors, packages, pipeline, publishing, signing
from ovfbuild.cache import Cache
from ovfbuild.cli import render, report, signature
from ovfbuild.cli.terminal import TerminalProgress
from ovfbuild.progress import LogProgress, Progress
from ovfbuild.publish.delivery import How
from ovfbuild.spec import agent_page, agents, appliance, models, plan, profile, profile_page, schema, targets
from ovfbuild.spec.units import parse_duration

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a bug in ovfbuild (with a traceback)
  2    the command line or appliance.toml is wrong
  3    a program is missing or failed
  4    the guest failed
  5    a file is not what it should be
  6    verification failed
  7    a target refused or failed
  130  interrupted
"""

_STDOUT, _DIST = Path("-"), Path("dist")
F = TypeVar("F", bound=Callable[..., Any])
_APPLIANCE = click.argument("appliance_file", metavar="APPLIANCE", type=click.Path(path_type=Path))
_OUT = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=_DIST,
    show_default=True,
    help="Folder for what comes out; pack also takes -, stdout.",
)
_PROFILE = click.option(
    "--profile", "profiles", multiple=True, metavar="NAME", help="Instead of those in APPLIANCE; or a path."
)
_VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Show every line that the guest and programs write.")
_ACCEL = click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="What runs guests; auto takes KVM where it was seen to run one.",
)
_SET = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="The value of a property.")
_COMPRESSION = click.option(
    "--compression", type=click.Choice(get_args(models.Compression)), help="Instead of [package] in APPLIANCE."
)
_REPRODUCIBLE = click.option(
    "--reproducible", is_flag=True, help="Compress with Python's own zlib: the same bytes on every machine."
)
_FORMAT = click.option(
    "--format", "form", type=click.Choice(get_args(profile.Format)), help="Instead of [package], and of the profile's."
)
_OF = "Look for TARGET in its [[publish]] first."
_JSON = click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
_NO_BOOT = click.option("--no-boot", is_flag=True, help="Don't boot the OVA to prove it.")


def command(group: click.Group, name: str | None = None) -> Callable[[F], click.Command]:
    """A command whose --help ends with the exit codes."""
    return group.command(name, epilog=EXIT_CODES)


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ovfbuild")
def cli() -> None:
    """Turn one TOML file into an OVF virtual appliance that imports everywhere, and prove that it boots."""


@command(cli)
@_APPLIANCE
@_OUT
@_PROFILE
@_FORMAT
@_COMPRESSION
@_REPRODUCIBLE
@signature.options
@_ACCEL
@_NO_BOOT
@click.option("--offline", is_flag=True, help="Use no network: only what is in the cache; the guest has none either.")
@click.option("--no-cache", is_flag=True, help="Make the base and the disk anew.")
@click.option(
    "--on-failure",
    type=click.Choice(["clean", "keep", "shell"]),
    default="clean",
    show_default=True,
    help="clean: keep the logs only; keep: the disk and the seed too; shell: open the guest's serial console.",
)
@click.option("--publish", "to", multiple=True, metavar="TARGET", help="Send the OVA there when it is good.")
@_VERBOSE
def make(
    appliance_file: Path, out: Path, profiles: tuple[str, ...], to: tuple[str, ...], verbose: bool, **how: Any
) -> None:
    """Build, package and verify APPLIANCE; print the path of each OVA, descriptor or disk."""
    if how["on_failure"] == "shell" and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise errors.UsageError("--on-failure shell needs a terminal", "use --on-failure keep in scripts and CI")
    if out == _STDOUT:
        raise errors.UsageError("make writes no OVA to stdout", "use -o DIR, or: ovfbuild pack --disk FILE -o -")
    resolved, progress = _plan(appliance_file, profiles, _compression(how), how["form"]), _progress(verbose)
    options = pipeline.Options(
        signer=signing.signer(resolved, signature.by(how), _ask()),
        out=out,
        accel=how["accel"],
        boot=not how["no_boot"],
        offline=how["offline"],
        use_cache=not how["no_cache"],
        on_failure=how["on_failure"],
    )
    chosen = [targets.find(name, _target_files(appliance_file)) for name in to]
    if chosen and [one.format for one in resolved.profiles] != ["ova"]:
        raise errors.UsageError("--publish sends one OVA", "--profile NAME says which, --format ova that it is one")
    publisher = publishing.Publisher(progress, _ask())
    publisher.require(chosen)
    for package in pipeline.make(resolved, options, progress):
        click.echo(package)
        for target in chosen:
            published = publisher.publish(package, target, How(), proven=True)
            click.echo("".join(f"{line}\n" for line in published.lines), nl=False)


@command(cli)
@_APPLIANCE
@click.option(
    "--disk",
    required=True,
    type=click.Path(path_type=Path),
    help="A qcow2, raw or VMDK image, packed as it is.",
)
@_OUT
@_PROFILE
@_FORMAT
@_COMPRESSION
@_REPRODUCIBLE
@signature.options
@_VERBOSE
def pack(appliance_file: Path, disk: Path, out: Path, profiles: tuple[str, ...], verbose: bool, **how: Any) -> None:
    """Wrap an existing disk; no VM is started. Prints the path of each OVA, or with -o - writes it to stdout."""
    resolved = _plan(appliance_file, profiles, _compression(how), how["form"])
    options = pipeline.Options(
        out=_DIST if out == _STDOUT else out, boot=False, signer=signing.signer(resolved, signature.by(how), _ask())
    )
    if out == _STDOUT:
        _one_to_stdout(resolved)
        pipeline.pack_to(sys.stdout.fileno(), resolved, disk, options, _progress(verbose))
        return
    for package in pipeline.pack(resolved, disk, options, _progress(verbose)):
        click.echo(package)


def _one_to_stdout(resolved: plan.Plan) -> None:
    if len(resolved.profiles) != 1:
        named = ", ".join(profile.name for profile in resolved.profiles)
        raise errors.UsageError(
            f"-o - writes one OVA, and there are {len(resolved.profiles)} ({named})", "--profile NAME"
        )
    if resolved.profiles[0].format == "ovf":
        raise errors.UsageError("-o - writes one file, and the format ovf is a folder", "use -o DIR, or --format ova")
    if sys.stdout.isatty():
        raise errors.UsageError("-o - would write the OVA to the terminal", "send it to a file or a program")


@command(cli)
@click.argument("ova", type=click.Path(path_type=Path))
@click.option("--boot", is_flag=True, help="Boot it too, on the hardware that it declares.")
@click.option("--timeout", default="30 min", show_default=True, help="For that boot.")
@_SET
@click.option(
    "--deliver",
    type=click.Choice(["nocloud", "ovf-env"]),
    default="nocloud",
    show_default=True,
    help="How that boot is told what --set says: by its seed, or by an OVF environment on the CD-ROM.",
)
@_ACCEL
@_VERBOSE
def verify(ova: Path, boot: bool, timeout: str, settings: tuple[str, ...], verbose: bool, **how: Any) -> None:
    """Open an OVA again and judge it: archive, manifest, descriptor, VMDK."""
    if settings and not boot:
        raise errors.UsageError("--set tells a booted appliance who it is", "add --boot, or leave out --set")
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise errors.UsageError(f"--timeout: {error}") from error
    booted = packages.Boot(how["accel"], seconds, settings, how["deliver"]) if boot else None
    verdict = packages.verify(ova, boot=booted, progress=_progress(verbose))
    click.echo(render.verdict(ova, verdict))


@command(cli)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--for", "wanted", multiple=True, metavar="IMPORTER", help="Fail only if this one would refuse it.")
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def check(file: Path, wanted: tuple[str, ...], as_json: bool) -> None:
    """Judge an OVA or OVF that anybody made, and say who imports it."""
    importers = packages.importers(wanted)
    verdict = packages.check(file, _progress(verbose=False))
    click.echo(json.dumps(report.as_json(file, verdict), indent=2) if as_json else report.as_text(file, verdict))
    if verdict.fails(importers):
        who = f"for {', '.join(wanted)}" if wanted else "at all"
        raise errors.VerificationError(f"{file.name} is not a good package {who}", "ovfbuild fix mends what can be")


@command(cli)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The OVA to write.")
def fix(file: Path, out: Path) -> None:
    """Mend an OVA or OVF as far as that leaves its disks' content alone; print what was mended."""
    mended = packages.fix(file, out, _progress(verbose=False))
    click.echo(report.mended(mended), nl=False)


@command(cli)
@click.argument("ova", type=click.Path(path_type=Path))
@click.option("--to", "name", required=True, metavar="TARGET", help="Where it goes: a target's name.")
@click.option("--appliance", "appliance_file", metavar="APPLIANCE", type=click.Path(path_type=Path), help=_OF)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Instead of what the target's table says.")
@click.option("--name", "called", metavar="NAME", help="What it is called there, instead of the OVA's own name.")
@click.option("--replace", is_flag=True, help="Let it take the place of what is there with its version.")
@click.option("--keep-old", type=click.IntRange(0), metavar="N", help="Then remove all but N other versions.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_JSON
@_VERBOSE
def publish(
    ova: Path, name: str, appliance_file: Path | None, settings: tuple[str, ...], verbose: bool, **how: Any
) -> None:
    """Send an OVA to a target, once; print what it is called there."""
    if how["replace"] and how["keep_old"] is not None:
        raise errors.UsageError("--replace and --keep-old are two ways", "keep one of the two")
    target = targets.find(name, _target_files(appliance_file), settings)
    publisher = publishing.Publisher(_progress(verbose), _ask())
    asked = How(how["replace"], how["keep_old"], how["dry_run"])
    published = publisher.publish(ova, target, asked, name=how["called"])
    if how["as_json"]:
        click.echo(json.dumps(published.to_json(), indent=2))
    else:
        click.echo("".join(f"{line}\n" for line in published.lines), nl=False)


@command(cli, "targets")
@click.argument("names", nargs=-1, metavar="[TARGET]...")
@click.option("--appliance", "appliance_file", metavar="APPLIANCE", type=click.Path(path_type=Path), help=_OF)
@_JSON
def show_targets(names: tuple[str, ...], appliance_file: Path | None, as_json: bool) -> None:
    """List the targets, and try each: is it there, may we write, is there room."""
    files = _target_files(appliance_file)
    known = [one.name for file in files for one in targets.load(file)]
    publisher = publishing.Publisher(_progress(verbose=False), _ask())
    tested = [publisher.test(targets.find(name, files)) for name in names or dict.fromkeys(known)]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in tested], indent=2))
    else:
        click.echo(render.targets(tested, files), nl=False)
    if broken := [one.target.name for one in tested if one.standing is None]:
        raise errors.PublishError(f"can't be used: {', '.join(broken)}")


@command(cli, "deploy-seed")
@click.argument("source", metavar="APPLIANCE|OVA", type=click.Path(path_type=Path))
@_SET
@click.option(
    "--format",
    "form",
    type=click.Choice(["nocloud", "ovf-env"]),
    default="nocloud",
    show_default=True,
    help="A NoCloud seed, or an OVF environment.",
)
@click.option("--hostname", metavar="NAME", help="The machine's name.")
@click.option("--ssh-key", type=click.Path(path_type=Path), help="Public keys of the default user, a .pub file.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The ISO to write.")
def deploy_seed(
    source: Path, settings: tuple[str, ...], form: str, hostname: str | None, ssh_key: Path | None, out: Path
) -> None:
    """Write the ISO that tells an appliance who it is; prints its path."""
    seed = packages.Seed("ovf-env" if form == "ovf-env" else "nocloud", hostname, ssh_key)
    click.echo(packages.deploy_seed(source, settings, out, seed, _progress(verbose=False)))


@command(cli)
@click.argument("ova", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def inspect(ova: Path, as_json: bool) -> None:
    """Say what is inside an OVA."""
    package = packages.inspect(ova)
    click.echo(json.dumps(package, indent=2) if as_json else render.package(package))


@command(cli, "plan")
@_APPLIANCE
@_PROFILE
def show_plan(appliance_file: Path, profiles: tuple[str, ...]) -> None:
    """Print the resolved plan as JSON; nothing is built."""
    click.echo(json.dumps(_plan(appliance_file, profiles).to_json(), indent=2))


@command(cli)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a commented appliance.toml into DIR that builds as it is."""
    click.echo(pipeline.new(folder))


@command(cli, "schema")
def show_schema() -> None:
    """Print the JSON schema of appliance.toml, for editors."""
    click.echo(json.dumps(schema.json_schema(), indent=2))


@command(cli, "agents")
@click.argument("name", required=False)
def show_agents(name: str | None) -> None:
    """List the agents that ship, or print all of one: NAME, or the path of a folder with an agent.toml."""
    if name is None:
        click.echo(render.agents([agents.load_agent(one).agent for one in agents.agent_names()]), nl=False)
    else:
        path = Path(name)
        click.echo(agent_page.page(agents.load_agent(path if path.is_dir() else name)), nl=False)


@command(cli, "profiles")
@click.argument("name", required=False)
def show_profiles(name: str | None) -> None:
    """List the profiles that ship, or print all of one: NAME, NAME:VERSION, or the path of one of your own."""
    if name is None:
        known = [profile.load_profile(one) for one in profile.profile_names()]
        click.echo(render.profiles(known), nl=False)
    else:
        click.echo(profile_page.page(profile.load_profile(name)), nl=False)


@cli.group(epilog=EXIT_CODES)
def cache() -> None:
    """What earlier builds left to be used again."""


@command(cache, "list")
def cache_list() -> None:
    """One line an entry: kind, digest, size, age, what it is."""
    click.echo(render.cache(Cache().entries()), nl=False)


@command(cache, "prune")
@click.option("--older-than", default="30 d", show_default=True, help="What was not used for so long.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
def cache_prune(older_than: str, everything: bool) -> None:
    """Remove what was not used for long; prints what went."""
    try:
        gone = Cache().prune(0.0 if everything else parse_duration(older_than))
    except ValueError as error:
        raise errors.UsageError(f"--older-than: {error}") from error
    click.echo(render.cache(gone), nl=False)


def _plan(
    appliance_file: Path,
    profiles: tuple[str, ...],
    compression: plan.PackedBy | None = None,
    form: profile.Format | None = None,
) -> plan.Plan:
    read = appliance.load(appliance_file)
    return plan.resolve(read, os.environ, profiles=profiles, compression=compression, form=form)


def _compression(how: dict[str, Any]) -> plan.PackedBy | None:
    """What --compression or --reproducible say, which one of them has to be."""
    level: plan.PackedBy | None = how["compression"]
    if level and how["reproducible"]:
        raise errors.UsageError("--reproducible compresses in a way of its own", "leave out --compression")
    return "reproducible" if how["reproducible"] else level


def _target_files(appliance_file: Path | None) -> list[Path]:
    """Where targets are looked for, in this order."""
    own = targets.default_file(os.environ)
    if appliance_file is None:
        return [own]
    return [appliance_file / appliance.FILE_NAME if appliance_file.is_dir() else appliance_file, own]


def _ask() -> publishing.Ask | None:
    """Asks for a secret on the terminal, if there is one."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: str(click.prompt(question, hide_input=True, err=True))


def _progress(verbose: bool) -> Progress:
    """A terminal sees steps move; anything else gets plain lines."""
    if sys.stderr.isatty():
        return TerminalProgress(Console(stderr=True), verbose)
    return LogProgress(sys.stderr, verbose)


def main() -> NoReturn:
    """The entry point: every way out is decided here."""
    # A `kill` cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name="ovfbuild", standalone_mode=False)
    except errors.OvfbuildError as error:
        _say(error.message, error.hint)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(errors.UsageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "")
        sys.exit(errors.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        traceback.print_exc()
        _say("this is a bug in ovfbuild", "please report it with the lines above")
        sys.exit(1)
    sys.exit(0)


def _say(message: str, hint: str) -> None:
    click.echo(f"ovfbuild: {message}", err=True)
    if hint:
        click.echo(f"  → {hint}", err=True)
