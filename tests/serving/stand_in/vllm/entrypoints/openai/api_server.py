"""A stand-in for vLLM's server in tests of the supervisor. It supports vLLM's command line, health check, model list,
chat and sleep mode. Its worker process runs in a separate session and outlives a killed server, as vLLM's workers
sometimes do.

The environment variable STAND_IN selects its behaviour:
- "fail: TEXT": it prints TEXT and exits immediately;
- "unhealthy": it never becomes healthy;
- "crash: TEXT": it is healthy, but prints TEXT and crashes at its first request;
- "echo" (the default): it answers with a hash of the request;
- "drop-adapters": like "echo", but after a sleep, adapters have no effect until they are loaded again;
- "disable-adapters": like "drop-adapters", but adapters have no effect even after they are loaded again;
- "batch-dependent": the log-probabilities in its replies differ from request to request.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("--model", "--served-model-name", "--host", "--max-model-len", "--max-loras", "--max-cpu-loras",
               "--max-lora-rank", "--gpu-memory-utilization", "--max-num-batched-tokens",
               "--distributed-executor-backend", "--max-num-seqs"):  # fmt: skip
    parser.add_argument(option)
parser.add_argument("--port", type=int)
parser.add_argument("--enable-lora", action="store_true")
parser.add_argument("--enable-sleep-mode", action="store_true")
parser.add_argument("--no-enable-chunked-prefill", action="store_true")
arguments = parser.parse_args()
behaviour = os.environ.get("STAND_IN", "echo")

if behaviour.startswith("fail"):
    print("an earlier line", flush=True)
    sys.exit(behaviour.removeprefix("fail: "))

worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
asleep = False
has_slept = False
adapters: dict[str, bool] = {}
"""Whether each loaded adapter has an effect, by name."""
CRASHED = Path("died")
"""A file that exists once a request that contains "die" has crashed the server, so that the restarted server does not
crash at the same request.
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if behaviour == "unhealthy":
            self.answer(503, {})
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": name} for name in (arguments.served_model_name, *adapters)]})
        elif self.path == "/is_sleeping":
            self.answer(200, {"is_sleeping": asleep})
        else:
            self.answer(200, {})

    def do_POST(self) -> None:
        global asleep, has_slept
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith(("/sleep", "/wake_up")):
            asleep = self.path.startswith("/sleep")
            self.answer(200, {})
            if not asleep:
                has_slept = True
                keeps_adapters = behaviour not in ("drop-adapters", "disable-adapters")
                adapters.update(dict.fromkeys(adapters, keeps_adapters))
        elif asleep:
            self.answer(500, {"error": "asleep"})
        elif behaviour.startswith("crash"):
            print(behaviour.removeprefix("crash: "), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.path.endswith("lora_adapter"):
            name = json.loads(body)["lora_name"]
            if self.path.startswith("/v1/unload"):
                del adapters[name]
            else:
                adapters[name] = not (behaviour == "disable-adapters" and has_slept)
            self.answer(200, {})
        elif self.path == "/v1/completions":
            is_tuned = adapters.get(json.loads(body)["model"], False)
            prompt_logprobs: list[object] = [None]  # vLLM reports none for the first token
            for position in range(4):
                adapter_effect = 0.5 if is_tuned and position == 2 else 0
                prompt_logprobs.append({"7": {"logprob": -1.0 - adapter_effect}})
            token_logprob = -time.monotonic() if behaviour == "batch-dependent" else -1.0
            logprobs = {"token_logprobs": [token_logprob]}
            choice = {"text": "1", "prompt_logprobs": prompt_logprobs, "logprobs": logprobs}
            self.answer(200, {"choices": [choice]})
        else:
            request = json.loads(body)
            if any("die" in message["content"] for message in request["messages"]) and not CRASHED.exists():
                CRASHED.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            text = hashlib.sha256(json.dumps(request["messages"]).encode()).hexdigest()[:12]
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer(200, {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"],
                              "choices": [choice], "usage": usage})  # fmt: skip

    def answer(self, code: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


print("the stand-in listens", flush=True)
ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
