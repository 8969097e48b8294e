"""Published adapters are named by their content, are never overwritten, and load in plain PEFT."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nanoflux_local.adapters.store import adapter_hash, export_peft, find_adapter, list_adapters, read_adapter
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError
from nanoflux_local.train.audit import prepare_rows
from nanoflux_local.train.data import Codec, TrainingExample
from nanoflux_local.train.events import TrainResult
from nanoflux_local.train.lora import train
from nanoflux_local.train.publishing import publish
from nanoflux_local.train.settings import TrainSettings
from nanoflux_models.errors import ServerError
from nanoflux_models.probe_record import PROBE, Probe, write_probe

SETTINGS = TrainSettings(epochs=1, learning_rate=3e-3, dtype="float32")
"""Settings of a short training run, in float32 so that plain PEFT can compute the same loss."""


@pytest.fixture
def result(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> TrainResult:
    """The result of a finished training run whose adapter is not published yet."""
    return train(SETTINGS, examples, (), tiny_base, tmp_path / "work")


def test_publishing_names_the_adapter_by_its_content(result: TrainResult, tmp_path: Path) -> None:
    adapters_dir = tmp_path / "adapters"
    folder = publish(result, SETTINGS, adapters_dir, "tiny", "rev", {"run": "r1"})
    assert folder.name == adapter_hash(folder) and list(adapters_dir.iterdir()) == [folder]
    manifest = read_adapter(folder).manifest
    assert manifest["base"] == {"name": "tiny", "revision": "rev"} and manifest["run"] == "r1"
    assert manifest["flops"]["6nd"] > 0 and manifest["settings"]["r"] == 8 and manifest["versions"]["torch"]
    assert manifest["data"]["digest"] == result.data_digest
    published_text = "".join(path.read_text(errors="replace") for path in folder.iterdir())
    assert str(tmp_path) not in published_text, "a published file contains a path of this machine"
    assert [adapter.to_json() for adapter in list_adapters(adapters_dir)] == [{**manifest, "probe": None}]
    assert find_adapter(adapters_dir, folder.name[:8]) == folder
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_publishing_never_overwrites_an_adapter(result: TrainResult, tmp_path: Path) -> None:
    folder = publish(result, SETTINGS, tmp_path / "adapters", "tiny")
    modified_at = (folder / "nanoflux.json").stat().st_mtime_ns
    assert publish(result, SETTINGS, tmp_path / "adapters", "tiny") == folder
    assert (folder / "nanoflux.json").stat().st_mtime_ns == modified_at
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")  # change the last byte of the weights
    with pytest.raises(DataError, match="do not match its manifest"):
        read_adapter(folder)
    with pytest.raises(RefusedError, match="content was changed"):
        publish(result, SETTINGS, tmp_path / "adapters", "tiny")


def test_list_marks_damaged_adapters(result: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path))
    intact = publish(result, SETTINGS, tmp_path / "adapters", "tiny", "rev", {"run": "r1"})
    damaged = intact.with_name("0" * 64)
    shutil.copytree(intact, damaged)
    with (damaged / "adapter_model.safetensors").open("ab") as file:
        file.write(b"\x7f")
    listing = CliRunner().invoke(nanoflux, ["adapters", "list"])
    assert listing.exit_code == 0, listing.output
    intact_line = rf"^{intact.name[:16]} +tiny +{result.examples} +[0-9.]+ → [0-9.]+ +– +r1$"
    assert re.search(intact_line, listing.stdout, re.MULTILINE), listing.stdout
    assert re.search(rf"^{damaged.name[:16]} +damaged", listing.stdout, re.MULTILINE)
    assert "do not match its manifest" in listing.stderr


def test_list_and_show_report_the_last_probe(
    result: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path))
    folder = publish(result, SETTINGS, tmp_path / "adapters", "tiny")
    working_probe = make_working_probe(folder)
    failing_probe = replace(working_probe, difference=0.0)
    for probe, word, verdict in ((working_probe, "works", "it works"), (failing_probe, "fails", "it has no effect")):
        write_probe(folder, probe, "tiny")
        list_result = CliRunner().invoke(nanoflux, ["adapters", "list"])
        show_result = CliRunner().invoke(nanoflux, ["adapters", "show", folder.name])
        assert word in list_result.stdout and verdict in show_result.stdout, "the last probe is not reported"
        json_result = CliRunner().invoke(nanoflux, ["adapters", "show", folder.name, "--json"])
        record = json.loads(json_result.stdout)["probe"]
        assert (record["passed"], record["verdict"], record["base"]) == (probe.passed, probe.verdict, "tiny")
    assert adapter_hash(folder) == folder.name and read_adapter(folder).hash == folder.name


def test_failed_write_of_a_probe_keeps_the_old_record(
    result: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = publish(result, SETTINGS, tmp_path / "adapters", "tiny")
    write_probe(folder, make_working_probe(folder), "tiny")
    record_before = (folder / PROBE).read_bytes()
    with monkeypatch.context() as patched, pytest.raises(ServerError, match=r"cannot be written.*No space left"):
        patched.setattr(Path, "replace", raise_disk_full)
        write_probe(folder, replace(make_working_probe(folder), difference=0.0), "tiny")
    assert (folder / PROBE).read_bytes() == record_before and not list(folder.glob(".probe*"))


def test_probe_is_not_exported_and_is_ignored_if_damaged(result: TrainResult, tmp_path: Path) -> None:
    folder = publish(result, SETTINGS, tmp_path / "adapters", "tiny")
    write_probe(folder, make_working_probe(folder), "tiny")
    export_peft(read_adapter(folder), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / PROBE).exists(), (
        "a probe is valid for one machine only, so it must not be exported"
    )
    (folder / PROBE).write_text("[1]")
    assert list_adapters(tmp_path / "adapters")[0].to_json()["probe"] is None


def make_working_probe(folder: Path) -> Probe:
    """A passed probe of the adapter in `folder`."""
    return Probe(folder.name, tokens=72, difference=2.5, agreement=0.95, worst_gap=0.1, error=0.01)


def test_unknown_adapters_and_folders_without_an_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not an adapter"):
        adapter_hash(tmp_path)
    with pytest.raises(NothingMatchedError):
        find_adapter(tmp_path, "abc")
    assert list_adapters(tmp_path / "none") == []


def test_find_adapter_names_the_adapters_that_an_ambiguous_hash_matches(tmp_path: Path) -> None:
    for name in ("ab1", "ab2", "ab3", "ab4", "cd1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nanoflux.json").write_text("{}")
    assert find_adapter(tmp_path, "c") == tmp_path / "cd1"
    with pytest.raises(NothingMatchedError, match="several adapter ids: ab1, ab2, ab3 and 1 more"):
        find_adapter(tmp_path, "ab")


def test_publishing_refuses_an_unfinished_training_run(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    stopped = train(SETTINGS, examples, (), tiny_base, tmp_path, should_stop=lambda: True)
    with pytest.raises(DataError, match="stopped before its last step"):
        publish(stopped, SETTINGS, tmp_path / "adapters", "tiny")


def test_plain_peft_measures_the_recorded_loss(
    result: TrainResult, tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = publish(result, SETTINGS, tmp_path / "adapters", "tiny")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), folder)
    _, validation = prepare_rows(SETTINGS, examples, (), Codec.load(tiny_base))
    loss_sum, label_count = 0.0, 0
    for row in validation.rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]
        labels = torch.tensor(row.ids[row.prompt_length :])
        loss_sum += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        label_count += row.label_count
    assert loss_sum / label_count == pytest.approx(result.val_loss, rel=1e-5)
