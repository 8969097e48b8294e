"""`nanoflux models plan`: which model of a profile goes on which GPU, before anything starts."""

import shutil
import subprocess
from dataclasses import asdict

import click

from nanoflux_local.cli.common import home, print_json, print_table, say, with_json
from nanoflux_local.errors import NanofluxError, UsageError


@click.command("plan")
@click.argument("profile")
@click.option("--gpus", default="", help="GiB of each GPU, for instance 40,40; else nvidia-smi is asked.")
@click.option("--sequences", default=8, show_default=True, type=click.IntRange(1), help="Requests answered at once.")
@click.option("--context", default=4096, show_default=True, type=click.IntRange(1), help="Tokens of each of them.")
@with_json
def command(profile: str, gpus: str, sequences: int, context: int, as_json: bool) -> None:
    """Say which model of PROFILE goes on which GPU; computed from manifests, nothing is started or measured."""
    from nanoflux_models.manifest import list_manifests, load_manifest
    from nanoflux_models.placement import Demand, kv_gib, plan

    sizes = _sizes(gpus)
    manifests = {name: load_manifest(name, home().root) for name in _served(profile)}
    missing = [name for name, manifest in manifests.items() if manifest.memory is None]
    if missing:
        fix = "state weights_gib and kv_bytes_per_token"
        raise UsageError(f"the manifest of {missing[0]} has no [memory] table", fix)
    spread = [name for name, manifest in manifests.items() if manifest.parallel.nodes > 1]
    if spread:
        raise UsageError(f"{spread[0]} spans several machines; this plans one", "see docs/multi-node.md")
    demands = []
    for name, manifest in manifests.items():
        assert manifest.memory is not None
        cache = kv_gib(manifest.memory.kv_bytes_per_token, sequences, min(context, manifest.context))
        width = manifest.parallel.tensor * manifest.parallel.pipeline
        demands.append(Demand(name, manifest.memory.weights_gib, cache, width, manifest.parallel.data))
    known = {m.name: m.memory.weights_gib for m in list_manifests(home().root) if m.memory and m.kind == "chat"}
    found = plan(demands, sizes, {name: gib for name, gib in known.items() if name not in manifests})
    if as_json:
        print_json({"profile": profile, "gpus": sizes, "fits": found.fits, **asdict(found)})
    elif found.fits and not demands:
        say(f"{profile} serves no model on a GPU.")
    elif found.fits:
        print_table(
            ("model", "GPUs", "tensor", "utilisation", "KV GiB", "takes turns"),
            [(s.name, ",".join(map(str, s.gpus)), s.tensor, f"{s.utilisation:.2f}", f"{s.kv_gib:.1f}", s.shares or "no")
             for s in found.servers],
        )  # fmt: skip
        if found.ram_gib:
            say(f"Taking turns (vLLM's sleep mode) keeps {found.ram_gib:.1f} GiB of weights in the machine's memory.")
    if not found.fits:
        raise NanofluxError(found.refusal, "what would fit: " + "; ".join(found.would_fit))


def _served(profile: str) -> list[str]:
    """The models that the profile's roles bind to servers managed here; the same model twice is one server."""
    from nanoflux_local.binding import load_profile

    values = load_profile(profile)
    tables = (values, values.get("without_programs", {}))
    bound = [role["endpoint"] for table in tables for role in table.get("roles", {}).values()]
    endpoints = values.get("endpoints", {})
    chosen = [endpoints[name] for name in bound if name in endpoints]
    return list(dict.fromkeys(each["model"] for each in chosen if each["interface"] == "vllm"))


def _sizes(gpus: str) -> list[float]:
    if not gpus:
        return _found()
    try:
        sizes = [float(part) for part in gpus.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < 10_000 for size in sizes):
        raise UsageError(f"--gpus {gpus!r} is not a list of GiB", "write for instance --gpus 40,40")
    return sizes


def _found() -> list[float]:
    """GiB of each GPU that nvidia-smi tells of."""
    smi, fix = shutil.which("nvidia-smi"), "say what there will be, for instance --gpus 40,40"
    if smi is None:
        raise UsageError("no GPU was found here: there is no nvidia-smi", fix)
    query = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    try:
        sizes = [float(line) / 1024 for line in done.stdout.split()]
    except ValueError:
        sizes = []
    if done.returncode or not sizes:
        raise UsageError("no GPU was found here: nvidia-smi names none", fix)
    return sizes
