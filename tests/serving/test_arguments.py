"""vLLM's own parser accepts the command line of every catalog model's server."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import Launch, ServerResources
from nanoflux_models.manifest import Parallel, list_manifests

PARSER_PROGRAM = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.cli.serve import ServeSubcommand
module_parser = make_arg_parser(FlexibleArgumentParser())
reasoning_parsers = ReasoningParserManager.list_registered()
serve_parser = FlexibleArgumentParser()
ServeSubcommand().subparser_init(serve_parser.add_subparsers(dest="subparser"))
rows = []
for arguments in json.load(sys.stdin):
    parser = serve_parser if arguments[0] == "serve" else module_parser
    parsed = parser.parse_args(arguments)
    assert arguments[0] != "serve" or parsed.model_tag == arguments[1]
    validate_parsed_serve_args(parsed)
    assert parsed.reasoning_parser in ("", *reasoning_parsers), parsed.reasoning_parser
    rows.append([parsed.served_model_name, parsed.tensor_parallel_size, parsed.pipeline_parallel_size,
                 parsed.distributed_executor_backend, parsed.gpu_memory_utilization, parsed.max_model_len, parsed.host,
                 parsed.max_num_seqs, bool(parsed.enable_lora),
                 parsed.language_model_only or (parsed.limit_mm_per_prompt or {}).get("image") == 0,
                 parsed.nnodes, parsed.node_rank, parsed.master_addr, parsed.headless, parsed.enable_prefix_caching])
json.dump(rows, sys.stdout)
"""
"""Parses the command lines on stdin, and writes a row of values for each."""
# Positions of values in these rows.
SERVER_VALUES = slice(9)
TEXT_ONLY = 9
"""The position of the value that is true if only the language model is loaded."""
NODE_VALUES = slice(10, 14)
PREFIX_CACHING = 14


def parse_commands(python: str, commands: list[list[str]], folder: Path) -> list[list[Any]]:
    """Parse command lines with vLLM's own parser; return a row of values for each."""
    arguments = [command[3:] for command in commands]  # without the interpreter, -m and the module
    process = subprocess.run(
        [python, "-c", PARSER_PROGRAM],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    parsed_values: list[list[Any]] = json.loads(process.stdout.splitlines()[-1])
    return parsed_values


def test_vllm_accepts_the_arguments_of_every_catalog_model(vllm_python: str, tmp_path: Path) -> None:
    interpreter = find_interpreter(vllm_python)
    interpreter = replace(interpreter, built_for_cpu=False, torch="2.13.0")
    chat_manifests = [manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat"]
    resources = ServerResources((0, 1), 0.4, tensor=2, sequences=24)
    launches = [
        Launch(manifest, "r", tmp_path, interpreter, resources, sleeps=True, is_wrapper=True, rank=rank)
        for manifest in chat_manifests
        for rank in (0, 16)
    ]
    vllm_without_args = chat_manifests[0].vllm.model_copy(update={"args": ()})
    base_manifest = chat_manifests[0].model_copy(update={"vllm": vllm_without_args})
    ray_manifest = base_manifest.model_copy(update={"parallel": Parallel(tensor=4, pipeline=2, nodes=2)})
    mp_parallel = Parallel(tensor=8, nodes=2, backend="mp", master="10.0.0.1")
    mp_manifest = base_manifest.model_copy(update={"parallel": mp_parallel})
    node_launches = [
        Launch(manifest, "r", tmp_path, interpreter, context=4096) for manifest in (ray_manifest, mp_manifest)
    ]
    module_commands = [launch.build_command(8000) for launch in launches]
    node_commands = [launch.build_command(8000) for launch in node_launches]
    node_commands += node_launches[1].list_other_node_commands()
    serve_interpreter = replace(interpreter, entry=("vllm.entrypoints.cli.main", "serve"))
    serve_commands = [replace(launch, interpreter=serve_interpreter).build_command(8000) for launch in launches]
    parsed_values = parse_commands(vllm_python, [*module_commands, *node_commands, *serve_commands], tmp_path)
    module_values = parsed_values[: len(launches)]
    ray_values, *mp_values = parsed_values[len(launches) : -len(launches)]
    serve_values = parsed_values[-len(launches) :]
    assert serve_values == module_values, "`vllm serve` parses different values"
    for launch, values in zip(launches, module_values, strict=True):
        expected = [[launch.model], 2, 1, None, 0.4, launch.max_model_len, "127.0.0.1", 24, launch.rank > 0]
        assert values[SERVER_VALUES] == expected
        assert values[TEXT_ONLY] is True, "more than the language model is loaded"
    assert ray_values[:7] == [[ray_manifest.name], 4, 2, "ray", 0.92, 4096, "127.0.0.1"]
    assert {values[PREFIX_CACHING] for values in parsed_values} == {None}, (
        "a launch sets prefix caching, which vLLM enables itself if the model supports it"
    )
    assert [values[NODE_VALUES] for values in mp_values] == [
        [2, 0, "10.0.0.1", False],
        [2, 1, "10.0.0.1", True],
    ]


def test_launch_without_adapters_reserves_no_adapter_buffers(vllm_python: str, tmp_path: Path) -> None:
    interpreter = find_interpreter(vllm_python)
    manifest = next(manifest for manifest in list_manifests(tmp_path) if manifest.name == "gpt-oss-20b")
    plain_launch, adapter_launch = (Launch(manifest, "r", tmp_path, interpreter, rank=rank) for rank in (0, 32))
    plain_command, adapter_command = plain_launch.build_command(1), adapter_launch.build_command(1)
    assert "--enable-lora" not in plain_command and "--max-num-seqs" not in plain_command
    assert plain_launch.build_environment("m")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
    assert adapter_command[adapter_command.index("--max-lora-rank") + 1] == "32"
    assert plain_launch.variant == adapter_launch.variant, "the keys of recorded requests would change"


def test_vllm_for_cpus_is_recognised_with_any_torch(vllm_python: str, tmp_path: Path) -> None:
    """Installing vLLM for CPUs from the package index also installs a torch for GPUs. If the interpreter were
    classified by its torch, its server would claim nearly all memory.
    """
    interpreter = find_interpreter(vllm_python)
    assert interpreter.built_for_cpu and replace(interpreter, torch="2.13.0").serves_on_cpu
    assert not Interpreter(interpreter.path, interpreter.vllm, "2.13.0").serves_on_cpu
    manifest = next(manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat")
    launch = Launch(manifest, "r", tmp_path, replace(interpreter, torch="2.13.0"))
    assert launch.build_environment("mark")["VLLM_CPU_KVCACHE_SPACE"] == "1"
