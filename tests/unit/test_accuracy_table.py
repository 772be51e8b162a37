"""Tables of accuracies: means and deviations over the seeds, gap to pooled SGD."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy_table import bars, markdown, row_of


def _summary(consensus: float, peers: float | None) -> dict[str, Any]:
    accuracies = {"consensus_accuracy": consensus, "mean_peer_accuracy": peers, "worst_peer_accuracy": peers}
    return {**accuracies, "bytes_sent_total": 10**9, "consensus_bytes": 10**9, "seconds": 60.0, "samples_total": 256}


def test_rows_have_means_and_sample_deviations_in_percent() -> None:
    row = row_of("ring-finite-time", 0.2, [_summary(0.80, 0.79), _summary(0.82, 0.81)])
    assert (row["consensus"], row["consensus sd"]) == (81.0, 1.414)
    assert (row["mean peer"], row["worst peer"]) == (80.0, 80.0)
    assert (row["GB sent"], row["seeds"]) == (2.0, 2)
    line = markdown([row | {"to pooled SGD": -0.25}]).splitlines()[2]
    assert line == "| ring-finite-time | 0.2 | 2 | 81.00 ± 1.41 | 80.00 ± 1.41 | 80.00 ± 1.41 | -0.25 | 2.00 | 60 |"


def test_plain_sgd_has_one_model_and_one_seed_has_no_deviation() -> None:
    row = row_of("sgd-batch-32", 0.05, [_summary(0.812, None)])
    assert (row["mean peer"], row["consensus sd"]) == (None, None)
    assert "| 81.20 | – | – | – |" in markdown([row | {"to pooled SGD": None}])


def test_bars_ask_mean_peer_and_consensus_model_to_reach_pooled_sgd() -> None:
    ring = row_of("ring-finite-time", 0.2, [_summary(0.810, 0.805)])
    plain = row_of("ring-plain", 0.2, [_summary(0.70, 0.70)])
    assert [bar.met for bar in bars([ring, plain], 81.2)] == [True, True, False]
