"""`nanoflux models`: manage model weights and vLLM servers."""

from pathlib import Path
from typing import Any

import click

from nanoflux_local.cli import servers
from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.cli.names import MODEL
from nanoflux_local.cli.plan import command as plan
from nanoflux_local.cli.rehearse import command as rehearse
from nanoflux_local.errors import NanofluxError

LINE_INTERVAL_S = 5.0
"""Seconds between two progress lines of a download if stderr is not a terminal. The terminal application shows the last
of these lines.
"""


@click.group(name="models")
def command() -> None:
    """Manage model weights and vLLM servers."""


@command.command("list")
@with_json
def list_models(as_json: bool) -> None:
    """List the models with a manifest and whether their weights are installed."""
    from nanoflux_models.manifest import list_manifests
    from nanoflux_models.weights import list_installed

    record_by_name = {record.name: record for record in list_installed(current_home().root)}
    entries: list[dict[str, Any]] = []
    for manifest in list_manifests(current_home().root):
        record = record_by_name.get(manifest.name)
        entries.append({
            "name": manifest.name,
            "kind": manifest.kind,
            "licence": manifest.licence,
            "installed": record is not None,
            "revision": record.revision if record else "",
            "bytes": record.bytes if record else 0,
            "description": manifest.description,
        })  # fmt: skip
    if as_json:
        print_json(entries)
        return
    print_table(
        ("name", "kind", "installed", "GiB", "licence", "description"),
        [
            [
                entry["name"],
                entry["kind"],
                "yes" if entry["installed"] else "no",
                f"{entry['bytes'] / 2**30:.1f}" if entry["installed"] else "",
                entry["licence"],
                entry["description"],
            ]
            for entry in entries
        ],
    )


@command.command()
@click.argument("names", nargs=-1, required=True)
def pull(names: tuple[str, ...]) -> None:
    """Download, verify and install the weights of NAMES from the sources in their manifests."""
    from nanoflux_models.weights import pull as pull_weights

    home = current_home().prepare()
    for name in names:
        bar = TransferBar(f"downloading {name}")
        try:
            pull_weights(name, home.root, say, bar.show)
        finally:
            bar.close()


class TransferBar:
    """Shows the progress of a download in MiB, including the bytes of an earlier, interrupted download. No bar is shown
    if nothing is downloaded.
    """

    def __init__(self, label: str) -> None:
        self._bar = Bar(label, "MiB", LINE_INTERVAL_S)
        self._is_shown = False

    def show(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""
        self._is_shown = True
        self._bar.show(done >> 20, total >> 20)

    def close(self) -> None:
        if self._is_shown:
            self._bar.close()


@command.command("import")
@click.argument("path", type=click.Path(exists=True))
@click.option("--name", required=True, help="Name for the model in this home.")
@click.option("--chat-template", "template", metavar="FILE",
              type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Jinja file with a chat template, for a base model that has none.")  # fmt: skip
def import_(path: str, name: str, template: Path | None) -> None:
    """Import weights from PATH: a directory of safetensors files or a GGUF file."""
    from nanoflux_models.weights import import_path

    import_path(Path(path), name, current_home().prepare().root, say, template)


@command.command()
@click.argument("name", type=MODEL)
@with_json
def show(name: str, as_json: bool) -> None:
    """Show the manifest of NAME and whether its weights are installed."""
    from nanoflux_models.manifest import find_manifest_path, load_manifest
    from nanoflux_models.weights import list_installed

    root = current_home().root
    manifest = load_manifest(name, root)
    path = find_manifest_path(name, root)
    revision_by_model = {record.name: record.revision for record in list_installed(root)}
    is_installed, revision = name in revision_by_model, revision_by_model.get(name, "")
    if as_json:
        state = {"path": str(path), "installed": is_installed, "revision": revision}
        print_json({**manifest.model_dump(mode="json"), **state})
        return
    click.echo(sanitize(path.read_text("utf-8").rstrip()))
    say(f"manifest: {path}")
    say(f"weights: revision {revision[:12]}" if is_installed else "weights: not installed")


@command.command()
@click.argument("name", required=False)
@with_json
def verify(name: str | None, as_json: bool) -> None:
    """Verify the SHA-256 of every file of NAME, or of all installed weights."""
    from nanoflux_models.weights import list_installed
    from nanoflux_models.weights import verify as verify_weights

    names = [name] if name else [record.name for record in list_installed(current_home().root)]
    problems_by_model = {model: verify_weights(model, current_home().root) for model in names}
    if as_json:
        print_json(problems_by_model)
    if not names:
        say("no weights are installed; install a model with `nanoflux models pull NAME`")
    for model, problems in problems_by_model.items():
        say(f"{model}: {'; '.join(problems) if problems else 'intact'}")
    damaged_models = [model for model, problems in problems_by_model.items() if problems]
    if damaged_models:
        raise NanofluxError(f"weights are damaged: {', '.join(damaged_models)}", "pull or import them again")


for subcommand in (plan, rehearse, servers.serve, servers.ps, servers.logs, servers.stop, servers.probe_command):
    command.add_command(subcommand)
