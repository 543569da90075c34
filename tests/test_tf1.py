import pytest

import tf1


@pytest.mark.parametrize(
    ("cores", "batch_size", "threads"), [(2, 32, 1), (2, 64, 1), (2, 65, 0), (2, None, 0), (1, 32, 0), (8, 32, 0)]
)
def test_on_two_cores_ops_of_a_small_batch_are_not_split(cores, batch_size, threads, monkeypatch):
    monkeypatch.setattr(tf1, "cores", lambda: cores)
    assert tf1.session_config(batch_size).intra_op_parallelism_threads == threads  # 0: as many as there are cores


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(tf1.os, "sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    assert tf1.cores() == 3
