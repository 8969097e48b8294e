"""`nanoflux bundle`: create, verify, install and merge bundles for machines without internet."""

import math
import re
import shutil
from collections import Counter
from pathlib import Path

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import NewPath, current_home, print_json, print_table, say, with_json

BYTES_BY_SUFFIX = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
MIN_PART_BYTES = 2**20
"""The smallest part of a bundle, in bytes: smaller parts would be too many files."""


class ByteSize(click.ParamType[int]):
    """A size in bytes, or a number with the suffix K, M or G."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)([KMG]?)", str(value).upper())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a size: write 4G, 700M or a number of bytes", param, ctx)
        size = int(match[1]) * BYTES_BY_SUFFIX[match[2]]
        if size < MIN_PART_BYTES:
            self.fail(f"{value!r} is less than 1M, the smallest size", param, ctx)
        return size


def _round_up_to_mib(size: int) -> int:
    """Convert a size in bytes to MiB, rounded up so that the smallest bundle is shown as 1 MiB."""
    return math.ceil(size / 2**20)


@click.group(name="bundle")
def command() -> None:
    """Create, verify, install and merge bundles: archives of software, weights, data, runs and adapters, in parts."""


@command.command()
@click.option("-o", "--out", required=True, type=NewPath(dir_okay=False),
              help="First file of the bundle; its parts are written next to it as FILE.001 and so on.")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="NAME", help="Installed model to include; repeatable.")
@click.option("--data", "datasets", multiple=True, metavar="DATASET", help="Imported benchmark to include; repeatable.")
@click.option("--corpus", is_flag=True, help="Include the documents that fact checks search.")
@click.option(
    "--profile", "profiles", multiple=True, type=click.Path(path_type=Path), help="Profile file to include; repeatable."
)
@click.option(
    "--export", "runs", multiple=True, metavar="RUN", help="Run to include with its adapters and report; repeatable."
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="HASH",
    help="Adapter to include with its training and evaluations; repeatable.",
)
@click.option("--evaluation", "evaluations", multiple=True, metavar="ID", help="Evaluation to include; repeatable.")
@click.option("--work", is_flag=True, help="Include all runs, adapters and evaluations, and no software.")
@click.option("--software/--no-software", default=True, show_default=True, help="Whether to include wheels and docs.")
@click.option("--wheel", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Wheel of this project [default: built from the checkout].")  # fmt: skip
@click.option(
    "--extra",
    "extras",
    multiple=True,
    metavar="NAME",
    help="Extra of this project to include, e.g. tensorboard or dev; repeatable.",
)
@click.option("--vllm", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="LIST",
              help="File with the output of `pip freeze --all` from an environment with vLLM, whose packages "
              "to include.")  # fmt: skip
@click.option(
    "--python", metavar="VERSION", help="Python version of the target machine, e.g. 3.12 [default: this machine's]."
)
@click.option(
    "--platform",
    metavar="TAG",
    help="Wheel platform of the target machine, e.g. manylinux_2_28_x86_64 [default: this machine's].",
)
@click.option(
    "--part-size",
    type=ByteSize(),
    default="2G",
    show_default=True,
    help="Maximum size of a part; FAT32 needs less than 4G.",
)
@click.option(
    "--sign", type=click.Path(path_type=Path, exists=True), help="SSH key that signs the bundle, into FILE.sig."
)
@with_json
def create(
    out: Path, models: tuple[str, ...], datasets: tuple[str, ...], corpus: bool, profiles: tuple[Path, ...],
    runs: tuple[str, ...], adapters: tuple[str, ...], evaluations: tuple[str, ...], work: bool,
    software: bool, wheel: Path | None, extras: tuple[str, ...], vllm: Path | None, python: str | None,
    platform: str | None, part_size: int, sign: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Create a bundle. If the command is interrupted, run it again to resume the downloads."""
    from nanoflux_local.bundle import installer
    from nanoflux_local.bundle.contents import BundleRequest, gather
    from nanoflux_local.bundle.writer import refuse_existing, write_bundle

    refuse_existing(out)
    scratch = out.with_name(f"{out.name}.making")
    software = software and not work
    request = BundleRequest(
        models, datasets, profiles, runs, software, wheel, extras, vllm, corpus, python or "", platform or "", adapters,
        evaluations, work,
    )  # fmt: skip
    if software:
        say("collecting wheels; the first time, this takes several minutes")
    contents = gather(request, current_home(), scratch)
    bar = Bar("packing", "MiB")
    try:
        head = write_bundle(
            out,
            contents.files,
            contents.description,
            part_size,
            lambda done, total: bar.show(_round_up_to_mib(done), _round_up_to_mib(total)),
        )
    finally:
        bar.close()
    if sign:
        installer.sign(out, sign)
    shutil.rmtree(scratch)
    if as_json:
        part_names = [head.part_path(number).name for number in range(1, len(head.parts) + 1)]
        print_json({
            "bundle": str(out),
            "parts": part_names,
            "files": len(head.files),
            "bytes": sum(part.bytes for part in head.parts),
            **contents.description,
        })  # fmt: skip
        return
    say(installer.verify_bundle(out))
    next_command = f"python3 {out.name} install" if software else f"nanoflux bundle merge {out.name}"
    say(f"copy {out.name} and its parts to the other machine, then run there: {next_command}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--signers", type=click.Path(path_type=Path, exists=True), help="Allowed signers file (see ssh-keygen).")
@with_json
def verify(file: Path, signers: Path | None, as_json: bool) -> None:
    """Verify every part and file of the bundle FILE and name each damaged part."""
    from nanoflux_local.bundle import installer

    if as_json:
        signer = installer.check_signature(file, signers) if signers else None
        problems = installer.find_problems(installer.read_head(file))
        print_json({"ok": not problems, "problems": problems, "signed_by": signer})
        if problems:
            raise click.exceptions.Exit(1)
        return
    say(installer.verify_bundle(file, signers))


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), default=Path("nanoflux"), show_default=True,
              help="New directory to install into.")  # fmt: skip
@click.option("--signers", type=click.Path(path_type=Path, exists=True), help="Allowed signers file (see ssh-keygen).")
def install(file: Path, to: Path, signers: Path | None) -> None:
    """Install the bundle FILE into a new directory, completely or not at all.

    On a machine without NanoFlux, run `python3 FILE install`.
    """
    from nanoflux_local.bundle import installer

    say(f"installed: {installer.install(file, to, say, signers)}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--skip-conflicts", is_flag=True, help="Leave out components that conflict with this home; merge the rest."
)
@click.option("--signers", type=click.Path(path_type=Path, exists=True), help="Allowed signers file (see ssh-keygen).")
@with_json
def merge(file: Path, skip_conflicts: bool, signers: Path | None, as_json: bool) -> None:
    """Add the runs, adapters, evaluations and data of the bundle FILE to this home; nothing is overwritten.

    A component of the bundle, for example an adapter, conflicts with this home if the home has a different component
    with the same name. The command then names every conflict, and adds nothing unless --skip-conflicts is set. Software
    in the bundle is not installed.
    """
    from nanoflux_local.bundle import installer
    from nanoflux_local.bundle.merging import merge_bundle

    if signers:
        say(f"signed by {installer.check_signature(file, signers)}")
    result = merge_bundle(file, current_home(), skip_conflicts, say)
    if as_json:
        print_json({"bundle": str(file), **result.to_json()})
        return
    conflicts_by_kind = Counter(conflict.kind for conflict in result.conflicts)
    kinds = dict.fromkeys([*result.added, *result.present, *conflicts_by_kind])  # each kind once, in this order
    print_table(
        ("kind", "added", "already present", "left out"),
        [
            (kind, len(result.added.get(kind, ())), len(result.present.get(kind, ())), conflicts_by_kind[kind])
            for kind in kinds
        ],
    )
    for conflict in result.conflicts:
        say(f"left out: {conflict}")
