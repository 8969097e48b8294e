"""Evaluations over the scripted endpoint: what is compared, and what is refused."""

import pytest

from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import UsageError
from nanoflux_local.evaluate.evaluation import compare, domain_of, evaluate, make_plan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.seeds.benchmarks import starter_items


async def _evaluated(ledger: Ledger, model: str, count: int) -> str:
    endpoint = ScriptedEndpoint(model)
    plan = make_plan(endpoint.identity, "starter", "test", starter_items("test")[:count], 1, 0.0)
    return str((await evaluate(ledger, endpoint, plan))["eval"])


@pytest.mark.parametrize("count", [1, 2])
async def test_one_item_has_no_spread_to_compare(tmp_path, count):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ids = [await _evaluated(ledger, model, count) for model in ("a", "b")]
        with LedgerView(path) as view:
            if count == 1:
                with pytest.raises(UsageError, match="are over one item"):
                    compare(view, ids)
            else:
                assert compare(view, ids)["pairs"][0]["n"] == 2


def test_gsm8k_is_asked_as_gsm_hard_is_and_free_text_by_no_strict_scorer():
    assert domain_of("gsm8k").name == "gsmhard"
    with pytest.raises(UsageError, match="no domain has the benchmark 'liveqa'"):
        domain_of("liveqa")
