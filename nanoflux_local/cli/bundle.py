"""`nanoflux bundle`: carry everything into a lab without internet, and its work out of it."""

import re
import shutil
from pathlib import Path

import click

from nanoflux_local.cli.common import Bar, home, print_json, say, with_json

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class Size(click.ParamType[int]):
    """Bytes, or a number with K, M or G."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+)([KMG]?)", str(value).upper())
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no size: write 4G, 700M or a number of bytes", param, ctx)
        return int(found[1]) * UNITS[found[2]]


@click.group(name="bundle")
def command() -> None:
    """One archive in parts: wheels, weights, benchmarks and docs on the way in; runs and adapters on the way out."""


@command.command()
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="The bundle's first file; its parts lie beside it, as FILE.001 and so on.")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="NAME", help="Installed weights to carry; again for more.")
@click.option("--data", "datasets", multiple=True, metavar="DATASET", help="An imported benchmark to carry.")
@click.option("--corpus", is_flag=True, help="The documents that fact checks search.")
@click.option("--profile", "profiles", multiple=True, type=click.Path(path_type=Path), help="A profile of your own.")
@click.option("--export", "runs", multiple=True, metavar="RUN", help="A run with its adapters and its report.")
@click.option("--adapter", "adapters", multiple=True, metavar="HASH", help="An adapter to carry, trained or imported.")
@click.option("--software/--no-software", default=True, show_default=True, help="Wheels and docs.")
@click.option("--wheel", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="This project's own wheel [default: built from the checkout].")  # fmt: skip
@click.option(
    "--extra", "extras", multiple=True, metavar="NAME", help="An extra of this project, as tensorboard or dev."
)
@click.option("--vllm", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="LIST",
              help="vLLM too, in an environment of its own: the packages that `pip freeze --all` lists.")  # fmt: skip
@click.option("--python", metavar="VERSION", help="Of the machine that it is for, as 3.12 [default: this one's].")
@click.option("--platform", metavar="TAG", help="Of that machine, as manylinux_2_28_x86_64 [default: this one's].")
@click.option(
    "--part-size", type=Size(), default="2G", show_default=True, help="Of one part: FAT32 takes less than 4G."
)
@click.option("--sign", type=click.Path(path_type=Path, exists=True), help="Sign it with this SSH key, into FILE.sig.")
@with_json
def create(
    out: Path, models: tuple[str, ...], datasets: tuple[str, ...], corpus: bool, profiles: tuple[Path, ...],
    runs: tuple[str, ...], adapters: tuple[str, ...],
    software: bool, wheel: Path | None, extras: tuple[str, ...], vllm: Path | None, python: str | None,
    platform: str | None, part_size: int, sign: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a bundle. Killed or failed, it goes on where its downloads were when it is begun again."""
    from nanoflux_local.bundle import carried
    from nanoflux_local.bundle.contents import Wanted, gather
    from nanoflux_local.bundle.writer import refuse_taken, write_bundle

    refuse_taken(out)
    scratch = out.with_name(f"{out.name}.making")
    wanted = Wanted(
        models, datasets, profiles, runs, software, wheel, extras, vllm, corpus, python or "", platform or "", adapters
    )
    if software:
        say("collecting wheels: this takes minutes the first time")
    contents = gather(wanted, home(), scratch)
    bar = Bar("packed")
    try:
        head = write_bundle(
            out, contents.files, contents.about, part_size, lambda done, total: bar.show(done >> 20, total >> 20, "MiB")
        )
    finally:
        bar.close()
    if sign:
        carried.sign(out, sign)
    shutil.rmtree(scratch)
    if as_json:
        names = [head.part(number).name for number in range(1, len(head.parts) + 1)]
        size = sum(part.bytes for part in head.parts)
        print_json({"bundle": str(out), "parts": names, "files": len(head.files), "bytes": size, **contents.about})
    else:
        say(carried.verify_bundle(out))
        say(f"carry it with its parts; there: python3 {out.name} install")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--signers", type=click.Path(path_type=Path, exists=True), help="Who may have signed it (ssh-keygen).")
@with_json
def verify(file: Path, signers: Path | None, as_json: bool) -> None:
    """Check every part and every file of the bundle FILE; each damaged part is named."""
    from nanoflux_local.bundle import carried

    if as_json:
        who = carried.check_signature(file, signers) if signers else None
        found = carried.problems(carried.read_head(file))
        print_json({"ok": not found, "problems": found, "signed_by": who})
        if found:
            raise click.exceptions.Exit(1)
        return
    say(carried.verify_bundle(file, signers))


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), default=Path("nanoflux"), show_default=True,
              help="The folder to make; it must not exist.")  # fmt: skip
@click.option("--signers", type=click.Path(path_type=Path, exists=True), help="Who may have signed it (ssh-keygen).")
def install(file: Path, to: Path, signers: Path | None) -> None:
    """Install the bundle FILE as a folder of its own, whole or not at all. Without NanoFlux: `python3 FILE install`."""
    from nanoflux_local.bundle import carried

    say(f"installed: {carried.install(file, to, say, signers)}")
