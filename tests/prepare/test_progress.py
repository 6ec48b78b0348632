"""The progress line."""

import io

from ul2tune.prepare.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make(stream=None, **kwargs):
    now = [0.0]
    progress = Progress(
        title="t/train", stream=stream or io.StringIO(), clock=lambda: now[0], **kwargs
    )
    return progress, now


def test_rates_and_time_left_by_bytes():
    progress, now = make(num_shards=4, total_bytes=4_000)
    now[0] = 10.0
    progress.add(500, 20_000, 1_000)
    line = progress.line()
    assert "500 documents (50/s)" in line
    assert "20,000 tokens (2,000/s)" in line
    assert "[=====               ] 0/4 shards" in line
    assert line.endswith("0:30 left")


def test_time_left_by_shards_where_bytes_are_unknown():
    progress, now = make(num_shards=4)
    now[0] = 10.0
    progress.add(1, 1, 1)
    assert progress.line().endswith("time left unknown")
    progress.finish_shard()
    now[0] = 20.0
    assert progress.line().endswith("1:00 left")
    for _ in range(3):
        progress.finish_shard()
    now[0] = 3800.0
    assert progress.line().endswith("in 1:03:20")


def test_one_live_line_on_a_terminal_and_few_in_a_log():
    for stream, lines in ((Terminal(), 1), (io.StringIO(), 2)):
        progress, now = make(stream, num_shards=1)
        for step in range(1, 41):
            now[0] = step * 0.25
            progress.add(1, 1, 1)
        progress.finish_shard()
        progress.close()
        assert stream.getvalue().count("\n") == lines
        updates = stream.getvalue().count("documents")
        assert updates == (41 if lines == 1 else 2)
