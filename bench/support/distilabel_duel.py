"""The duel in four steps as a pipeline of distilabel, against an OpenAI-compatible server. `bench/engine.py --peer
PYTHON` runs this script with the Python of an environment that has distilabel; it imports nothing of this project.

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

STEPS = {
    "attack": "Problem {{ number }}. Write a harder one.\nQUESTION: SOLUTION: ANSWER: REFLECTION:",
    "validate": "Say VALID or INVALID.\nProblem: {{ attack }}\nCONFIDENCE:",
    "defend": "Solve it.\nProblem: {{ attack }}\nANALYSIS: SOLUTION: ANSWER:",
    "evaluate": "Say CORRECT or INCORRECT.\nReference answer: 1\nIts answer: 2\n{{ attack }} {{ defend }}\nCONFIDENCE:",
}


def cpu_seconds() -> float:
    """CPU seconds of this process and its children."""
    usages = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    url, rows, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    logging.disable(logging.WARNING)
    with Pipeline(name="duel") as pipeline:
        previous_step = None
        for name, template in STEPS.items():
            columns = [word for word in ("number", *STEPS) if f"{{{{ {word} }}}}" in template]
            step = TextGeneration(
                name=name, llm=OpenAILLM(model="token-server", base_url=url, api_key="none"), template=template,
                columns=columns, output_mappings={"generation": name}, input_batch_size=batch,
            )  # fmt: skip
            if previous_step is not None:
                previous_step >> step
            previous_step = step
    wall_start, cpu_start = time.perf_counter(), cpu_seconds()
    datasets = pipeline.run(
        dataset=[{"number": number} for number in range(rows)], dataset_batch_size=batch, use_cache=False
    )
    row_count = len(datasets["default"]["train"])
    print(
        json.dumps({"rows": row_count, "wall_s": time.perf_counter() - wall_start, "cpu_s": cpu_seconds() - cpu_start})
    )


if __name__ == "__main__":
    main()
