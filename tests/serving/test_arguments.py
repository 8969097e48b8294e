"""The command lines of the whole catalog, read by vLLM's own parser: an argument that it does not know is an error."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import Launch, Seat
from nanoflux_models.manifest import Parallel, list_manifests

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser, known, read = make_arg_parser(FlexibleArgumentParser()), ReasoningParserManager.list_registered(), []
for words in json.load(sys.stdin):
    found = parser.parse_args(words)
    validate_parsed_serve_args(found)
    assert found.reasoning_parser in ("", *known), found.reasoning_parser
    read.append([found.served_model_name, found.tensor_parallel_size, found.pipeline_parallel_size,
                 found.distributed_executor_backend, found.gpu_memory_utilization, found.max_model_len, found.host])
json.dump(read, sys.stdout)
"""


def test_vllm_reads_the_arguments_of_every_model_in_the_catalog(vllm_python: str, tmp_path: Path) -> None:
    interpreter = Interpreter(Path(vllm_python), "", "")
    chat = [manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat"]
    seat = Seat((0, 1), 0.4, tensor=2)
    launches = [Launch(manifest, "r", tmp_path, interpreter, seat, sleeps=True) for manifest in chat]
    wide = chat[0].model_copy(update={"parallel": Parallel(tensor=4, pipeline=2, nodes=2)})
    launches.append(Launch(wide, "r", tmp_path, interpreter, context=4096))
    words = [launch.command(8000)[3:] for launch in launches]
    done = subprocess.run(
        [vllm_python, "-c", PARSE], input=json.dumps(words), capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.splitlines()[-1])
    for launch, found in zip(launches[:-1], read, strict=False):
        assert found == [[launch.model], 2, 1, None, 0.4, launch.length, "127.0.0.1"]
    assert read[-1] == [[wide.name], 4, 2, "ray", 0.92, 4096, "127.0.0.1"]


def test_a_vllm_for_cpus_is_known_as_one_whatever_torch_is_beside_it(vllm_python: str, tmp_path: Path) -> None:
    """From the package index alone comes a torch for GPUs; without this the server wants nearly all of the memory."""
    found = find_interpreter(vllm_python)
    assert found.built_for_cpu and replace(found, torch="2.13.0").for_cpu
    assert not Interpreter(found.path, found.vllm, "2.13.0").for_cpu
    manifest = next(manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat")
    launch = Launch(manifest, "r", tmp_path, replace(found, torch="2.13.0"))
    assert launch.environment("mark")["VLLM_CPU_KVCACHE_SPACE"] == "1"
