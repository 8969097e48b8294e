"""Calibrates the novelty thresholds of an embedder: the similarity of near-duplicates and of independent pairs.

Question threshold: near-duplicates are pairs of GSM-Hard and GSM8K questions with the same story and different numbers,
and starter templates drawn twice; independent pairs are random. Solution threshold: the same solution with different
numbers (starter templates drawn twice) against solutions of different templates. The benchmarks are read from
../shared/data; without that folder, only the starter part runs.
"""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.paths import default_home
from nanoflux_local.seeds.source import instantiate
from nanoflux_models.weights import weights_dir

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PAIRS = 400


def extract_stem(text: str) -> str:
    return re.sub(r"[^a-z]+", "", text.casefold())


def load_restated_pairs() -> list[tuple[str, str]]:
    """Pairs of GSM-Hard and GSM8K test questions with the same words and different numbers."""
    if not DATA.exists():
        return []
    easy = {}
    for line in (DATA / "gsm8k" / "test.jsonl").read_text().splitlines():
        question = json.loads(line)["question"]
        easy[extract_stem(question)] = question
    hard = [json.loads(line)["input"] for line in (DATA / "gsm-hard" / "gsmhardv2.jsonl").read_text().splitlines()]
    pairs = [(question, easy[extract_stem(question)]) for question in hard if extract_stem(question) in easy]
    return [pair for pair in pairs if pair[0] != pair[1]]


def print_quantiles(name: str, model: object, pairs: list[tuple[str, str]]) -> None:
    if not pairs:
        return
    left_vectors = model.encode([left for left, _ in pairs], normalize_embeddings=True)  # type: ignore[attr-defined]
    right_vectors = model.encode([right for _, right in pairs], normalize_embeddings=True)  # type: ignore[attr-defined]
    similarities = (left_vectors * right_vectors).sum(axis=1)
    quantiles = np.quantile(similarities, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    print(f"{name:44} n={len(pairs):4}  " + "  ".join(f"{value:.3f}" for value in quantiles))


def main() -> int:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights_dir("all-minilm-l6-v2", default_home())), device="cpu")
    rng = random.Random(0)
    print(f"{'cosine similarity at quantile':53}  0.01   0.05   0.25   0.50   0.75   0.95   0.99")
    restated = load_restated_pairs()
    print_quantiles("GSM-Hard and GSM8K, same story", model, rng.sample(restated, min(PAIRS, len(restated))))
    texts = [hard for hard, _ in restated]
    print_quantiles(
        "random GSM-Hard questions", model, [tuple(rng.sample(texts, 2)) for _ in range(PAIRS)] if texts else []
    )
    templates = load_templates()
    drawn = [
        (template, instantiate(template, rng), instantiate(template, rng)) for template in templates for _ in range(3)
    ]
    print_quantiles(
        "starter questions, one template", model, [(one.question, other.question) for _, one, other in drawn]
    )
    print_quantiles(
        "starter solutions, one template", model, [(one.solution, other.solution) for _, one, other in drawn]
    )
    pairs = [tuple(rng.sample(drawn, 2)) for _ in range(PAIRS)]
    pairs = [(one, other) for one, other in pairs if one[0] is not other[0]]
    print_quantiles(
        "starter questions, two templates", model, [(one[1].question, other[1].question) for one, other in pairs]
    )
    print_quantiles(
        "starter solutions, two templates", model, [(one[1].solution, other[1].solution) for one, other in pairs]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
