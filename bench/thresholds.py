"""Calibrates the novelty thresholds of an embedder by the similarity of near-duplicates and of independent pairs.

    python bench/thresholds.py

For the question threshold, near-duplicates are pairs of GSM-Hard and GSM8K questions with the same words and different
numbers, and pairs of questions drawn from one starter template; independent pairs are drawn at random. For the solution
threshold, near-duplicates are two solutions drawn from one template, and independent pairs come from two templates. The
benchmarks are read from ../shared/data; without that folder, only the starter part runs.
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
"""The maximum number of pairs of each kind."""
Pairs = list[tuple[str, str]]
"""Pairs of texts whose similarity is measured."""


def extract_stem(text: str) -> str:
    """The letters of a question, so that questions with the same words and different numbers have the same stem."""
    return re.sub(r"[^a-z]+", "", text.casefold())


def load_restated_pairs() -> Pairs:
    """Pairs of a GSM-Hard and a GSM8K test question with the same words and different numbers."""
    if not DATA.exists():
        return []
    easy_questions = read_column(DATA / "gsm8k" / "test.jsonl", "question")
    hard_questions = read_column(DATA / "gsm-hard" / "gsmhardv2.jsonl", "input")
    easy_by_stem = {extract_stem(question): question for question in easy_questions}
    pairs = []
    for question in hard_questions:
        easy_question = easy_by_stem.get(extract_stem(question), question)
        if easy_question != question:
            pairs.append((question, easy_question))
    return pairs


def read_column(path: Path, key: str) -> list[str]:
    """The value of `key` in each line of a JSONL file."""
    return [json.loads(line)[key] for line in path.read_text().splitlines()]


def print_quantiles(name: str, model: object, pairs: Pairs) -> None:
    """Print the quantiles of the cosine similarity of the pairs; without pairs, print nothing."""
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
    restated_pairs = load_restated_pairs()
    sampled_pairs = rng.sample(restated_pairs, min(PAIRS, len(restated_pairs)))
    print_quantiles("GSM-Hard and GSM8K, same words", model, sampled_pairs)
    hard_questions = [hard for hard, _ in restated_pairs]
    if hard_questions:
        random_pairs = [tuple(rng.sample(hard_questions, 2)) for _ in range(PAIRS)]
        print_quantiles("random GSM-Hard questions", model, random_pairs)
    draws = []  # three pairs of items from each template
    for template in load_templates():
        draws += [(template, instantiate(template, rng), instantiate(template, rng)) for _ in range(3)]
    question_pairs = [(left.question, right.question) for _, left, right in draws]
    print_quantiles("starter questions, one template", model, question_pairs)
    solution_pairs = [(left.solution, right.solution) for _, left, right in draws]
    print_quantiles("starter solutions, one template", model, solution_pairs)
    independent_items = []
    for _ in range(PAIRS):
        (left_template, left, _), (right_template, right, _) = rng.sample(draws, 2)
        if left_template is not right_template:
            independent_items.append((left, right))
    question_pairs = [(left.question, right.question) for left, right in independent_items]
    print_quantiles("starter questions, two templates", model, question_pairs)
    solution_pairs = [(left.solution, right.solution) for left, right in independent_items]
    print_quantiles("starter solutions, two templates", model, solution_pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
