"""`nanoflux models plan`: which model of a profile goes on which GPU, before anything starts."""

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
    from nanoflux_local.serving import planned
    from nanoflux_models.manifest import list_manifests, load_manifest

    sizes = _sizes(gpus)
    manifests = {name: load_manifest(name, home().root) for name in _served(profile)}
    known = {m.name: m.memory.weights_gib for m in list_manifests(home().root) if m.memory and m.kind == "chat"}
    smaller = {name: gib for name, gib in known.items() if name not in manifests}
    found = planned(manifests.values(), sizes, smaller, sequences, context)
    if as_json:
        print_json({"profile": profile, "gpus": sizes, "fits": found.fits, **asdict(found)})
    elif found.fits and not manifests:
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
    """The models that the profile binds to servers managed here, by its roles and its judge's panel; the same model
    twice is one server."""
    from nanoflux_local.binding import load_profile

    values = load_profile(profile, home())
    tables = (values, values.get("without_programs", {}))
    bound = [role["endpoint"] for table in tables for role in table.get("roles", {}).values()]
    bound += [name for table in tables for name in table.get("judge", {}).get("panel", ())]
    endpoints = values.get("endpoints", {})
    chosen = [endpoints[name] for name in bound if name in endpoints]
    return list(dict.fromkeys(each["model"] for each in chosen if each["interface"] == "vllm"))


def _sizes_here() -> list[float]:
    """GiB of this machine's GPUs; names those whose memory the driver does not state.

    Raises:
        UsageError: no GPU of stated memory is here.
    """
    from nanoflux_models.gpus import found_gpus, survey_gpus

    survey, fix = survey_gpus(), "state the GiB of each GPU, for instance --gpus 40,40"
    if not survey.gpus:
        reason = survey.problem or "nvidia-smi lists none"
        raise UsageError(f"no GPU was found here: {reason}", fix)
    unstated = "; ".join(
        f"GPU {gpu.index} ({gpu.name}) does not state its memory: {gpu.stated}" for gpu in survey.unstated
    )
    if len(survey.unstated) == len(survey.gpus):
        raise UsageError(unstated, fix)
    if unstated:
        say(f"{unstated}. Nothing is placed on it; {fix}")
    return found_gpus()


def _sizes(gpus: str) -> list[float]:
    if not gpus:
        return _sizes_here()
    try:
        sizes = [float(part) for part in gpus.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < 10_000 for size in sizes):
        raise UsageError(f"--gpus {gpus!r} is not a list of GiB", "write for instance --gpus 40,40")
    return sizes
