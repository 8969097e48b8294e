"""The endpoints of a profile are placed on GPUs together, and their placement determines vLLM's arguments."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.build import check_endpoint
from nanoflux_local.endpoints.managed.launches import (
    Workload,
    assign_resources,
    build_managed,
    choose_rank,
    collect_workloads,
    make_launch,
)
from nanoflux_local.errors import ConfigError, RefusedError
from nanoflux_local.paths import Home
from nanoflux_models.manifest import load_manifest

SMALL_MODEL = "smollm2-135m"


@pytest.fixture
def home(tmp_path: Path, smollm2_dir: Path) -> Home:
    """A home with the weights of SmolLM2."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    (folder / "weights").symlink_to(smollm2_dir.parent)
    return Home(folder)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of 40 GiB with a compute capability below an A100's."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text(
        '#!/bin/sh\ncase "$*" in *compute_cap*) echo 7.5; echo 7.5;;\n'
        '*) echo "A card, 40960, 570.1"; echo "A card, 40960, 570.1";; esac\n'
    )
    nvidia_smi.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def make_config(**settings: object) -> EndpointConfig:
    """The configuration of an endpoint that serves SmolLM2 with a managed vLLM server."""
    return EndpointConfig.model_validate({"interface": "vllm", "model": SMALL_MODEL, **settings})


def test_endpoints_of_one_model_share_one_workload(home: Home) -> None:
    configs = [
        make_config(capacity=16),
        make_config(capacity=16, context=4096),
        EndpointConfig(interface="scripted", model="x"),
    ]
    workloads = collect_workloads(configs, 24, home)
    assert list(workloads) == [SMALL_MODEL]
    workload = workloads[SMALL_MODEL]
    assert (workload.sequences, workload.context, workload.rank) == (24, 8192, 0)
    assert collect_workloads([make_config(capacity=4)], 24, home)[SMALL_MODEL].sequences == 4


def test_context_of_a_reasoning_model_includes_its_reasoning_tokens(home: Home) -> None:
    def find_context(**settings: object) -> int:
        config = make_config(model="qwen3-32b-awq", **settings)
        return collect_workloads([config], 8, home)["qwen3-32b-awq"].context

    assert find_context() == 8192 + 8192
    assert find_context(reasoning_tokens=0) == 8192
    assert find_context(context=12288) == 12288


def test_placement_determines_vllm_arguments(gpus: None, home: Home, vllm_python: str) -> None:
    config = make_config(capacity=12, context=4096, python=vllm_python)
    workloads = collect_workloads([config], 32, home).values()
    resources, group = assign_resources(workloads, fill_gpus=True)[SMALL_MODEL]
    arguments = make_launch(config, home, resources, sleeps=False).build_command(8000)
    options = {name: value for name, value in pairwise(arguments) if name.startswith("--")}
    assert group == "" and resources.gpus == (0,)
    assert options["--gpu-memory-utilization"] == "0.92", "the only model on a GPU does not get the whole GPU"
    assert options["--max-num-seqs"] == "12" and options["--max-model-len"] == "4096"
    assert "--enable-lora" not in arguments


def test_models_serve_claims_only_the_gpu_memory_that_requests_need(gpus: None, home: Home) -> None:
    resources, _group = assign_resources([load_manifest(SMALL_MODEL, home.root)])[SMALL_MODEL]
    assert resources.utilisation == 0.07, (
        "expected (0.25 GiB of weights + 0.7 GiB of KV cache + 1.5 GiB of overhead) / 40 GiB"
    )


def test_workload_has_adapter_buffers_only_for_models_with_adapters(home: Home) -> None:
    manifest = load_manifest("gpt-oss-20b", home.root)
    plain_demand, adapter_demand = (Workload(manifest, rank=rank).demand for rank in (0, 16))
    assert plain_demand.lora_gib == 0 and adapter_demand.lora_gib == pytest.approx(0.8, abs=0.05)
    assert adapter_demand.compute_share(1, 40.0) > plain_demand.compute_share(1, 40.0)
    assert choose_rank([]) == 16


@pytest.mark.parametrize("group", ["", "gpu0"])
def test_endpoints_of_one_model_share_a_server_with_the_longest_context(
    group: str, home: Home, vllm_python: str
) -> None:
    settings = {"python": vllm_python, "shares": group}
    endpoints, groups = build_managed(
        {"a": make_config(**settings), "b": make_config(context=2048, **settings)}, home, 8
    )
    assert endpoints["a"].context == endpoints["b"].context
    assert set(groups.values()) == {group}


def test_batch_invariance_is_refused_on_cpus(gpus: None, home: Home, vllm_python: str) -> None:
    resources, _group = assign_resources([load_manifest(SMALL_MODEL, home.root)])[SMALL_MODEL]
    with pytest.raises(RefusedError, match=r"batch_invariant: vLLM .* for CPUs has no") as error:
        make_launch(make_config(batch_invariant=True, python=vllm_python), home, resources, sleeps=False)
    assert error.value.exit_code == 3 and "8.0" in error.value.fix
    with pytest.raises(ConfigError, match="batch_invariant"):
        check_endpoint(EndpointConfig(interface="openai_chat", model="m", batch_invariant=True), "profile")


def test_batch_invariance_is_refused_on_gpus_below_an_a100(
    gpus: None, home: Home, install_fake_vllm: Callable[..., str]
) -> None:
    resources, _group = assign_resources([load_manifest(SMALL_MODEL, home.root)])[SMALL_MODEL]
    with pytest.raises(RefusedError, match=r"a GPU has compute capability 7\.5"):
        make_launch(make_config(batch_invariant=True, python=install_fake_vllm()), home, resources, sleeps=False)
