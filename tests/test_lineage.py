"""The lineage of an example names the nearest held-out items, as measured with the embedder of its run."""

from pathlib import Path

import pytest

from nanoflux_local.endpoints.scripted import HashingEmbedder
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.examples.lineage import trace_lineage
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import similarity
from nanoflux_local.run import configs
from nanoflux_local.seeds.benchmarks.starter_easy import make_easy_items
from tests.executed_runs import execute_run


def test_lineage_names_the_nearest_held_out_items(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    config = configs.resolve("starter", "scripted", {"target": 1, "seed": 7, "held_out": ["starter-easy"]}, home)
    execute_run(home, config)
    with LedgerView(home.ledger) as view:
        example = view.row("SELECT id, question FROM examples")
        assert example is not None
        nearest_items = trace_lineage(home, view, example["id"]).near
        with pytest.raises(NothingMatchedError, match="no example 'x'"):
            trace_lineage(home, view, "x")
    embed = HashingEmbedder("hashing-embedder").vector
    question_vector = embed(example["question"])
    similarity_by_item = {
        item.id: similarity(question_vector, embed(item.question)) for item in make_easy_items("test")
    }
    assert [entry.similarity for entry in nearest_items] == sorted(similarity_by_item.values(), reverse=True)[:3]
    assert all(similarity_by_item[entry.item] == entry.similarity for entry in nearest_items)
