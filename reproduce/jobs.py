"""What it costs when several processes train together, on one machine.

python -m reproduce.jobs --workers 4 --json jobs.json
"""

import argparse
import json
import math
import socket
import sys
import time
from pathlib import Path
from statistics import median

import command
from reproduce.benchmark import BATCH_SIZES, WARM_UP, check_json, machine, of, spread, write
from reproduce.ways import BETA1, LEARNING_RATE
from reproduce.worker import Worker, answers, batch

ALONE, JOB, IN_ALL_REDUCE, REDUCE_ONE, REDUCE_ALL = "alone", "job", "in-all-reduce", "reduce-one", "reduce-all"


class _Traced:
    """Stands for a session, and keeps a trace of what it runs."""

    def __init__(self, session):
        self.session, self.traces = session, []

    def run(self, fetches, feed_dict=None):
        from tf1 import tf

        self.traces.append(tf.RunMetadata())
        options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
        return self.session.run(fetches, feed_dict, options=options, run_metadata=self.traces[-1])

    def all_reduces(self) -> list[tuple[int, float]]:
        """(bytes, seconds) of each. The seconds are from its start until it has the sum, with waiting for others."""
        found = []
        for trace in self.traces:
            for device in trace.step_stats.dev_stats:
                for node in device.node_stats:
                    name = node.node_name.split(":")[0]
                    try:
                        operation = self.session.graph.get_operation_by_name(name)
                    except (KeyError, ValueError):  # of TensorFlow's own making
                        continue
                    if operation.type.startswith("CollectiveReduce"):
                        value = operation.inputs[0]
                        found.append((value.shape.num_elements() * value.dtype.size, node.all_end_rel_micros / 1e6))
        return found


def work_in_job(batch_size: int, workers: int) -> int:
    """One worker of a job: `TF_CONFIG` says which. Answers lines "what steps" on stdin with JSON. batch_size: its own.

    What: "alone", steps of `gan()` in this process; "job", steps in which all workers take part; "in-all-reduce", the
    same steps traced; "reduce-one" and "reduce-all", an all-reduce alone, of one number or of as many as there are
    gradients.
    """
    out = answers()
    import models
    from dcgan_keras import gan
    from tf1 import distributed, keras, session_config, tf

    def build(job):
        networks = models.article_generator(), models.article_discriminator()
        together = batch_size * job.workers
        step = job.build(gan, *networks, learning_rate=LEARNING_RATE, beta1=BETA1, batch_size=together)
        return step, sum(math.prod(w.shape) for network in networks for w in network.trainable_weights)

    alone = tf.Graph()
    with alone.as_default():
        alone_session = tf.Session(config=session_config(batch_size))
        keras.backend.set_session(alone_session)
        alone_step, gradients = build(distributed.Job())
        alone_session.run(tf.global_variables_initializer())
    job = distributed.join(batch_size=batch_size * workers)
    with job.scope():
        session = job.session()
        keras.backend.set_session(session)
        job_step, _ = build(job)
        reduce = {
            what: job.run(lambda n=n: job.reduced(tf.distribute.ReduceOp.SUM, tf.ones((n,))).op)
            for what, n in ((REDUCE_ONE, 1), (REDUCE_ALL, gradients))
        }
    session.run(tf.global_variables_initializer())
    print(json.dumps({"ready": True}), file=out)
    images, noise = batch(batch_size)
    for line in sys.stdin:
        what, steps = line.split()
        answer, traced = {}, _Traced(session)
        began = time.perf_counter()
        for _ in range(int(steps)):
            if what == ALONE:
                alone_step(alone_session, images, noise)
            elif what in reduce:
                session.run(reduce[what])
            else:
                job_step(traced if what == IN_ALL_REDUCE else session, images, noise)
        answer["seconds"] = (time.perf_counter() - began) / int(steps)
        if what == IN_ALL_REDUCE:
            answer["all_reduces"] = traced.all_reduces()
        print(json.dumps(answer), file=out)
    job.leave(session)
    return 0


def in_jobs(most: int, batch_size: int, steps: int, rounds: int) -> list[dict]:
    """For jobs of 1, 2, 4 … up to `most` processes on this machine: what a step takes, and what of it all-reduce.

    In each round, all processes first take `steps` steps each for itself, at the same time, then as many together.
    """
    rows = []
    for count in [2**i for i in range(most.bit_length())]:
        print(f"a job of {count}", file=sys.stderr)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        workers = []
        try:
            for i in range(count):
                config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
                workers.append(
                    Worker(
                        f"worker {i}",
                        "reproduce.jobs",
                        "--batch-size",
                        batch_size,
                        "--workers",
                        count,
                        TF_CONFIG=json.dumps(config),
                    )
                )
            for worker in workers:
                worker.answer()

            def ask(what, steps, workers=workers):
                for worker in workers:
                    worker.ask(what, steps)
                return [worker.answer() for worker in workers]

            seconds = {what: [] for what in (ALONE, JOB, REDUCE_ONE, REDUCE_ALL)}
            for what in seconds:
                ask(what, WARM_UP)
            for _ in range(rounds):
                for what, each in seconds.items():
                    each.append(sum(answer["seconds"] for answer in ask(what, steps)) / count)
            traced = ask(IN_ALL_REDUCE, steps)[0]["all_reduces"]
            sizes = sorted({size for size, _ in traced})
        finally:
            for worker in workers:  # they leave together
                worker.process.stdin.close()
            for worker in workers:
                worker.close()
        rows.append(
            {
                "processes": count,
                "batch_size": batch_size,
                "steps_per_second": spread(1 / each for each in seconds[JOB]),
                "images_per_second": spread(count * batch_size / each for each in seconds[JOB]),
                "alone_ms": spread(1000 * each for each in seconds[ALONE]),
                "job_ms": spread(1000 * each for each in seconds[JOB]),
                "cost_ms": spread(1000 * (j - a) for j, a in zip(seconds[JOB], seconds[ALONE], strict=True)),
                "all_reduces_ms": {n: 1000 * median(each for size, each in traced if size == n) for n in sizes},
                "all_reduces_per_step": len(traced) / steps,
                "bytes_per_step": sum(size for size, _ in traced) / steps,
                "in_all_reduce_ms": 1000 * sum(each for _, each in traced) / steps,
                "reduce_one_ms": spread(1000 * each for each in seconds[REDUCE_ONE]),
                "reduce_all_ms": spread(1000 * each for each in seconds[REDUCE_ALL]),
            }
        )
    return rows


def jobs_table(rows: list[dict]) -> str:
    """As Markdown."""
    head = ["processes", "steps/s", "images/s", "ms per step", "each for itself", "difference", "in all-reduce"]
    head += ["all-reduces per step", "bytes per step", "an all-reduce of 1 number", "of all gradients"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [str(row["processes"]), of(row["steps_per_second"], 1), of(row["images_per_second"], 0)]
        cells += [of(row[name], 1) for name in ("job_ms", "alone_ms", "cost_ms")] + [f"{row['in_all_reduce_ms']:.1f}"]
        cells += [f"{row['all_reduces_per_step']:g}", f"{row['bytes_per_step']:,.0f}"]
        cells += [of(row["reduce_one_ms"], 2), of(row["reduce_all_ms"], 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.jobs", description="What training together costs on one machine.")
    add = parser.add_argument
    workers = "measure jobs of 1, 2, 4 ... up to N processes, at batch 32 each (default: %(default)s)"
    add("--workers", type=command.at_least(1), default=2, metavar="N", help=workers)
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    add("--quick", action="store_true", help="two rounds at a small size: shows that it runs, measures nothing")
    add("--batch-size", type=command.at_least(1), help=argparse.SUPPRESS)  # of a worker, which `in_jobs` starts
    arguments = parser.parse_args(arguments)
    check_json(arguments.json)
    return arguments


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    if arguments.batch_size:
        return work_in_job(arguments.batch_size, arguments.workers)
    size, steps, rounds = (2, 1, 2) if arguments.quick else (BATCH_SIZES[0], 10, 12)
    report = {"machine": machine(), "quick": arguments.quick}  # first: it has the load before this program's own
    report["jobs"] = in_jobs(arguments.workers, size, steps, rounds)
    print(jobs_table(report["jobs"]))
    if arguments.json:
        write(report, arguments.json)
    return 0


if __name__ == "__main__":
    command.run(main)
