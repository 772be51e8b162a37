"""Classes in reports: shards, accuracy on a peer's own classes, accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.support.runs import make_centralized, make_run

from p2pfl.report import load_run, summarize, write_report
from p2pfl.report.compare import load_entries
from p2pfl.report.compare.table import cell
from p2pfl.report.fields import value_text
from p2pfl.report.warnings import collect_warnings
from p2pfl.run.paths import ROUNDS_FILE, SHARD_FILE
from p2pfl.run.records import append_round, read_rounds
from p2pfl.run.shard_record import ShardRecord, read_shard_record, recorded_sizes, write_shard_record
from p2pfl.topology import make_topology

pytestmark = pytest.mark.usefixtures("blank_plots")

RING = make_topology("ring", 4)
CLASSES = ["cat", "dog", "owl"]
COUNTS = [[30, 10, 0], [20, 0, 0], [0, 40, 0], [10, 10, 0]]
BY_CLASS = [0.8, 0.4, None]


def with_classes(run_dir: Path, counts: Sequence[list[int]] = COUNTS) -> Path:
    """Add shards and accuracies by class to a made run, as its processes record them."""
    for peer, folder in enumerate(sorted((run_dir / "peers").iterdir())):
        if peer < len(counts):
            write_shard_record(folder, ShardRecord(CLASSES, counts[peer]))
        records = read_rounds(folder)
        (folder / ROUNDS_FILE).unlink()
        for record in records:
            if record.test_accuracy is not None:
                own = 0.5 + 0.1 * peer if record.phase == "train" else None
                record = msgspec.structs.replace(record, own_accuracy=own, class_accuracy=BY_CLASS)
            append_round(folder, record, None)
    return run_dir


def test_each_peer_is_measured_on_its_own_classes_too(tmp_path: Path) -> None:
    summary = summarize(with_classes(make_run(tmp_path / "run", RING)))
    assert summary["mean_own_accuracy"] == pytest.approx(0.65)
    assert summary["worst_own_accuracy"] == pytest.approx(0.5)
    assert summary["class_accuracy"] == {"cat": 0.8, "dog": 0.4, "owl": None}
    text = value_text("class_accuracy", summary["class_accuracy"])
    assert text == "cat 80.00 %, dog 40.00 %, owl –"
    page = write_report(tmp_path / "run").read_text()
    assert "own classes" in page
    assert text in page


def test_clients_are_measured_by_the_global_model(tmp_path: Path) -> None:
    run_dir = with_classes(make_centralized(tmp_path / "run"), [[30, 10, 0], [0, 40, 5]] * 10)
    run = load_run(run_dir)
    summary = summarize(run_dir)
    assert len(run.shards) == len(run.trainers)
    own = [(30 * 0.8 + 10 * 0.4) / 40, 0.4]
    expected = [own[client % 2] for client in run.trainers]
    assert summary["mean_own_accuracy"] == pytest.approx(sum(expected) / len(expected))
    assert summary["worst_own_accuracy"] == pytest.approx(0.4)


def test_runs_without_these_records_have_none_of_it(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", RING)
    summary = summarize(run_dir)
    names = ("mean_own_accuracy", "worst_own_accuracy", "class_accuracy")
    assert [summary[name] for name in names] == [None] * 3
    assert recorded_sizes(run_dir, RING, 4) is None
    write_report(run_dir)


def test_classes_of_nobody_and_of_one_peer_are_cautioned_about(tmp_path: Path) -> None:
    run_dir = with_classes(make_run(tmp_path / "run", RING), [[30, 10, 0], [20, 0, 0], [10, 0, 0], [10, 0, 0]])
    found = collect_warnings(load_run(run_dir), summarize(run_dir))
    assert "Nobody has training samples of class owl: no model can learn them." in found
    assert any(line.startswith("A single peer has all training samples of class dog (only 0)") for line in found)
    assert not any("cat" in line for line in found)


def test_comparisons_have_two_more_columns(tmp_path: Path) -> None:
    with_classes(make_run(tmp_path / "one", RING))
    [entry] = load_entries([tmp_path / "one"])
    assert cell(entry, "mean_own_accuracy") == "65.00 %"
    assert cell(entry, "worst_own_accuracy") == "50.00 %"


def test_a_shard_record_round_trips_and_is_read_with_care(tmp_path: Path) -> None:
    record = ShardRecord(CLASSES, [1, 2, 3])
    write_shard_record(tmp_path, record)
    assert read_shard_record(tmp_path) == record
    assert record.samples == 6
    for damaged in (b"", b"{", b'{"classes": ["a"], "counts": [1, 2]}', b'{"classes": [], "counts": [], "format": 1}'):
        (tmp_path / SHARD_FILE).write_bytes(damaged)
        assert read_shard_record(tmp_path) is None
    (tmp_path / SHARD_FILE).write_bytes(b'{"classes": ["a"], "counts": [1], "format": 2}')
    assert read_shard_record(tmp_path) is None, "of a later version"


def test_matrices_by_samples_come_from_the_records(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", RING)
    settings = run_dir / "config.toml"
    settings.write_text(settings.read_text().replace('mixing = "metropolis-hastings"', 'mixing = "samples"'))
    assert summarize(run_dir)["spectral_gap"] is None, "the sizes are not known"
    write_report(run_dir)
    with_classes(run_dir)
    run = load_run(run_dir)
    assert run.matrix is not None
    assert [40, 20, 40, 20] @ run.matrix == pytest.approx([40, 20, 40, 20])
    assert 0 < summarize(run_dir)["spectral_gap"] < 1
