"""Diagrams of how a GAN is trained, drawn from the graph that the training really runs.

`read_step` runs one step in a session that records its calls, and walks TensorFlow's graph back from what was fetched:
how often each network is applied and to what, and which loss updates which weights. The drawings have no other source,
so they cannot disagree with the code.
"""

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from command import replacing
from tf1 import keras, session_config, tf

# Reading the graph.


class Application(NamedTuple):
    """One forward pass of a network."""

    network: str
    source: str | int  # "noise", "real", "generated" by an earlier run, or the index of an application in this run


class Loss(NamedTuple):
    applications: list[int]  # whose outputs it is computed from
    updates: list[str]  # the networks whose weights it updates


class Run(NamedTuple):
    """One call of the session."""

    applications: list[Application]
    losses: list[Loss]


class Recorder(tf.Session):
    """A session that records its calls: the ops that are asked for, what is fed to them, and the results.

    Both those by `run` and those by which Keras does `train_on_batch` and `predict`.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def run(self, fetches, feed_dict=None, **options):
        values = super().run(fetches, feed_dict=feed_dict, **options)
        element = self.graph.as_graph_element
        asked = [element(each) for each in tf.nest.flatten(fetches)]
        # An op's result is None, which flatten keeps in the list.
        results = [value for value in tf.nest.flatten(values) if value is not None]
        self.calls.append((asked, {element(key): value for key, value in (feed_dict or {}).items()}, results))
        return values

    def _make_callable_from_options(self, options):
        call = super()._make_callable_from_options(options)
        element = self.graph.as_graph_element
        asked = [element(name) for name in [*options.fetch, *options.target]]
        keys = [element(name) for name in options.feed]

        def recorded(*values, **keywords):
            results = call(*values, **keywords)
            self.calls.append((asked, dict(zip(keys, values, strict=True)), list(results)))
            return results

        return recorded


def read_step(recipe: Callable, generator: keras.Model, discriminator: keras.Model, **options) -> list[Run]:
    """What one training step does, run by run. recipe: `gan()` or another of its signature; options: for it.

    Works in the default graph, where the two models are. Runs of the session that neither apply nor update a network
    are left out.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.5, 0.5, (2, *discriminator.input_shape[1:])).astype(np.float32)
    noise = rng.standard_normal((2, *generator.input_shape[1:]), np.float32)
    with Recorder(config=session_config()) as sess:
        keras.backend.set_session(sess)
        step = recipe(generator, discriminator, **options)
        sess.run(tf.global_variables_initializer())
        step(sess, images, noise)  # the first step may also build and initialize something
        sess.calls.clear()
        step(sess, images, noise)
        networks = {"G": generator, "D": discriminator}
        runs, generated = [], []
        for asked, fed, results in sess.calls:
            labels = {tensor.op: label(value, images, noise, generated) for tensor, value in fed.items()}
            run = read_run(asked, labels, networks)
            if run.applications or run.losses:
                runs.append(run)
            generated += [result for result in results if np.shape(result) == images.shape]
    return runs


def label(value: np.ndarray, images: np.ndarray, noise: np.ndarray, generated: list[np.ndarray]) -> str:
    """What was fed: "real", "noise", "generated" or "other"."""
    for name, known in (("real", [images]), ("noise", [noise]), ("generated", generated)):
        if any(np.array_equal(value, each) for each in known):
            return name
    return "other"


def read_run(asked: list, labels: dict[tf.Operation, str], networks: dict[str, keras.Model]) -> Run:
    """asked: ops and tensors; labels: what is fed to which op."""
    ops = ancestors((each if isinstance(each, tf.Operation) else each.op for each in asked), control=True)
    fed = descendants(labels)
    first, last = {}, {}  # {op: network} for every pass: where its first and its last weights meet the data
    weights_of = {}
    for name, network in networks.items():
        kernels = [weight for weight in network.weights if len(weight.shape) > 1]
        for found, kernel in ((first, kernels[0]), (last, kernels[-1])):
            for read in kernel.handle.consumers():
                if read in ops and read.type == "ReadVariableOp":
                    meeting = first_descendant(read, fed & ops)
                    if meeting:
                        found[meeting] = name
        weights_of |= {weight.handle.op: name for weight in network.weights}

    passes = sorted(last, key=lambda op: op._id)
    applications = []
    for op in passes:
        # A network of one layer begins where it ends.
        entry = {op} if op in first else {e for e in ancestors([op], stop=set(first)) if first.get(e) == last[op]}
        before = ancestors((tensor.op for e in entry for tensor in e.inputs), stop=set(last))
        sources = [passes.index(each) for each in before if each in last] or [labels[e] for e in before if e in labels]
        applications.append(Application(last[op], sources[0] if sources else "other"))

    updates = {}  # the op that computes a loss -> the networks it updates
    for op in ops:
        if "Apply" in op.type and op.inputs[0].op in weights_of and (root := loss_op(op)):
            updates.setdefault(root, set()).add(weights_of[op.inputs[0].op])
    losses = []
    for root, names in sorted(updates.items(), key=lambda item: item[0]._id):
        direct = [passes.index(each) for each in ancestors([root], stop=set(last)) if each in last]
        losses.append(Loss(sorted(direct), sorted(names)))
    return Run(applications, losses)


def ancestors(ops: Iterable[tf.Operation], stop: set = frozenset(), control: bool = False) -> set[tf.Operation]:
    """The ops and all that they are computed from; also what they wait for, if `control`. Not beyond `stop`."""
    found, left = set(), list(ops)
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            if op not in stop:
                left += [tensor.op for tensor in op.inputs] + (op.control_inputs if control else [])
    return found


def descendants(ops: Iterable[tf.Operation]) -> set[tf.Operation]:
    """The ops and all that is computed from them."""
    found, left = set(), list(ops)
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            left += [consumer for tensor in op.outputs for consumer in tensor.consumers()]
    return found


def first_descendant(op: tf.Operation, among: set[tf.Operation]) -> tf.Operation | None:
    """The oldest of what is computed from `op` and is `among` these: forward passes are older than gradients."""
    heap, seen = [(op._id, op)], {op}
    while heap:
        _, op = heapq.heappop(heap)
        if op in among:
            return op
        for consumer in (each for tensor in op.outputs for each in tensor.consumers()):
            if consumer not in seen:
                seen.add(consumer)
                heapq.heappush(heap, (consumer._id, consumer))
    return None


def loss_op(update: tf.Operation) -> tf.Operation | None:
    """The loss whose gradient an update applies, or None.

    TensorFlow records with each op of a gradient which op it differentiates; of those, the loss is computed last.
    """
    differentiated = {op._original_op for op in ancestors([update])} - {None}
    return max(differentiated, key=lambda op: op._id, default=None)


# Drawing.

COLOURS = {"G": "#cfe3f7", "D": "#fbdcc4", "data": "#eeeeee", "loss": "#f6efb5", "update": "#d9efd3"}
TITLES = {"noise": "noise", "real": "real pictures", "generated": "generated before", "other": "other"}
WIDTH, HEIGHT = 1.5, 0.62  # of a box, in inches, as all positions


def box(axes: Axes, x: float, y: float, text: str, kind: str) -> tuple[float, float]:
    """Draw a box around (x, y) and return (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=COLOURS[kind],
            edgecolor="#555555",
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10)
    return x, y


def arrow(axes: Axes, start: tuple, end: tuple, **style) -> None:
    """From the right side of the box at `start` to the left side of the one at `end`."""
    style = {"color": "#333333", **style}
    ends = ((start[0] + WIDTH / 2, start[1]), (end[0] - WIDTH / 2, end[1]))
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=13, shrinkA=0, shrinkB=1, **style))


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(0.25, height - 0.3, title, fontsize=13, weight="bold", va="center")
    return figure, axes


def times(runs: list[Run]) -> str:
    """How often each network is applied, in words."""
    applied = [application.network for run in runs for application in run.applications]
    return ", ".join(f"{name} × {applied.count(name)}" for name in ("G", "D") if name in applied)  # noqa: RUF001


def names(loss: Loss) -> tuple[str, str]:
    """A loss is called after the network that it updates, as in the article."""
    weights = ", ".join(f"$W_{name}$" for name in loss.updates)
    return (f"{loss.updates[0]}_loss" if len(loss.updates) == 1 else "loss"), f"update {weights}"


def architecture(runs: list[Run], title: str) -> Figure:
    """What one training step computes, from left to right: a panel for each run of the session."""
    left, column, line = 1.2, 2.2, 0.95
    panels = []
    for run in runs:
        sources = [a.source for a in run.applications if isinstance(a.source, str)]
        panels.append((run, sources, max(len(sources), len(run.losses), 1) * line + 0.5))
    width, height = left + 4 * column + left, sum(panel[2] + 0.2 for panel in panels) + 0.7
    figure, axes = canvas(width, height, title)
    called = "1 call of the session" if len(runs) == 1 else f"{len(runs)} calls of the session"
    axes.text(width - 0.25, height - 0.3, f"one step: {called}, {times(runs)}", ha="right", va="center", fontsize=11)
    top = height - 0.65
    for number, (run, _, tall) in enumerate(panels, 1):
        axes.add_patch(
            FancyBboxPatch(
                (0.25, top - tall), width - 0.5, tall, boxstyle="round,pad=0", facecolor="none", edgecolor="#bbbbbb"
            )
        )
        axes.text(0.4, top - 0.2, f"call {number}: {times([run])}", fontsize=9, color="#555555", va="center")
        rows = {}  # application -> its height, that of its source
        free = (top - 0.35 - line / 2 - i * line for i in range(99))
        places = []
        for index, application in enumerate(run.applications):
            if isinstance(application.source, str):
                rows[index] = next(free)
                before = box(axes, left, rows[index], TITLES[application.source], "data")
            else:
                rows[index] = rows[application.source]
                before = places[application.source]
            place = left + column * (1 if application.network == "G" else 2), rows[index]
            arrow(axes, before, place)
            places.append(box(axes, *place, application.network, application.network))
        by_height = sorted(run.losses, key=lambda loss: -np.mean([places[a][1] for a in loss.applications] or [0]))
        for index, loss in enumerate(by_height):
            y = top - 0.35 - line / 2 - index * line
            loss_name, update_name = names(loss)
            place = box(axes, left + 3 * column, y, loss_name, "loss")
            for application in loss.applications:
                arrow(axes, places[application], place)
            arrow(axes, place, box(axes, left + 4 * column, y, update_name, "update"), linestyle="--", color="#2a7f2a")
        top -= tall + 0.2
    return figure


def concept(runs: list[Run], title: str) -> Figure:
    """Each network once, what it is applied to, and which loss updates it."""
    edges, updates = set(), set()
    for run in runs:
        for each in run.applications:
            source = each.source if isinstance(each.source, str) else run.applications[each.source].network
            edges.add(("G" if source == "generated" else source, each.network))
        for loss in run.losses:
            updates |= {(names(loss)[0], network) for network in loss.updates}
            edges |= {(run.applications[index].network, names(loss)[0]) for index in loss.applications}
    figure, axes = canvas(9.4, 3.7, title)
    places = {"noise": (1.2, 2.15), "G": (3.5, 2.15), "real": (3.5, 1.0), "D": (5.8, 1.575)}
    places |= {"G_loss": (8.1, 2.15), "D_loss": (8.1, 1.0), "loss": (8.1, 1.575)}
    for name in sorted({end for edge in edges for end in edge}):
        kind = "loss" if "loss" in name else name if name in COLOURS else "data"
        box(axes, *places[name], TITLES.get(name, name), kind)
    for start, end in sorted(edges):
        arrow(axes, places[start], places[end])
    for loss, network in sorted(updates):
        (x, y), (to_x, to_y) = places[loss], places[network]
        side = 1 if y > places["D"][1] else -1  # around the outside
        ends = (x, y + side * HEIGHT / 2), (to_x, to_y + side * HEIGHT / 2)
        bend = f"arc3,rad={side * (0.22 if network == 'G' else 0.42)}"
        axes.add_patch(
            FancyArrowPatch(
                *ends, arrowstyle="-|>", mutation_scale=13, connectionstyle=bend, linestyle="--", color="#2a7f2a"
            )
        )
        middle = (x + to_x) / 2, (y + to_y) / 2 + side * (1.0 if network == "G" else 0.95)
        axes.text(*middle, f"updates $W_{network}$", ha="center", va="center", fontsize=9, color="#2a7f2a")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure so that the same one makes the same file."""
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": path.name}), replacing(path) as beside:
        figure.savefig(beside, metadata=metadata, dpi=120)
