"""Runs the duel's four steps as a distilabel pipeline, against an OpenAI-compatible server. `bench/engine.py --peer
PYTHON` runs this script with the Python of an environment that has distilabel; it imports nothing from this project.

    python distilabel_duel.py URL ROWS BATCH      # prints one JSON line: seconds of wall and CPU time
"""

import json
import logging
import resource
import sys
import time

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps.tasks import TextGeneration

TEMPLATE_BY_STEP = {
    "attack": "Problem {{ number }}. Write a harder one.\nQUESTION: SOLUTION: ANSWER: REFLECTION:",
    "validate": "Say VALID or INVALID.\nProblem: {{ attack }}\nCONFIDENCE:",
    "defend": "Solve it.\nProblem: {{ attack }}\nANALYSIS: SOLUTION: ANSWER:",
    "evaluate": "Say CORRECT or INCORRECT.\nReference answer: 1\nIts answer: 2\n{{ attack }} {{ defend }}\nCONFIDENCE:",
}
"""The prompt of each step; a step's reply is a column that later prompts contain."""


def measure_cpu_seconds() -> float:
    """The CPU seconds of this process and its children so far."""
    usages = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    url = sys.argv[1]
    rows = int(sys.argv[2])
    batch = int(sys.argv[3])
    logging.disable(logging.WARNING)
    with Pipeline(name="duel") as pipeline:
        previous_step = None
        for name, template in TEMPLATE_BY_STEP.items():
            columns = [column for column in ("number", *TEMPLATE_BY_STEP) if f"{{{{ {column} }}}}" in template]
            step = TextGeneration(
                name=name, llm=OpenAILLM(model="token-server", base_url=url, api_key="none"), template=template,
                columns=columns, output_mappings={"generation": name}, input_batch_size=batch,
            )  # fmt: skip
            if previous_step is not None:
                previous_step >> step
            previous_step = step
    wall_start = time.perf_counter()
    cpu_start = measure_cpu_seconds()
    numbers = [{"number": number} for number in range(rows)]
    datasets = pipeline.run(dataset=numbers, dataset_batch_size=batch, use_cache=False)
    wall_s = time.perf_counter() - wall_start
    cpu_s = measure_cpu_seconds() - cpu_start
    print(json.dumps({"rows": len(datasets["default"]["train"]), "wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
