"""The line of import, export and merge."""

from __future__ import annotations

from ul2tune.cli import byte_progress
from ul2tune.cli.byte_progress import ByteProgress


def test_a_log_hears_of_a_large_model_every_ten_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(byte_progress.time, "monotonic", lambda: now[0])
    progress = ByteProgress("imported", 4_000_000_000)
    for _ in range(4):
        now[0] += 5
        progress.add(1_000_000_000)
    progress.end()
    assert capsys.readouterr().err.splitlines() == [
        "imported: 2.00 of 4.00 GB (50 %), 200 MB/s",
        "imported: 4.00 of 4.00 GB (100 %), 200 MB/s",
        "imported: 4.00 of 4.00 GB (100 %), 200 MB/s",
    ]
