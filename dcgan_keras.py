"""Fast DCGAN in Keras: both networks updated in one forward-backward pass.

    python dcgan_keras.py --dataset cifar10

After "Fast DCGAN in Keras" (ctmakro, February 2017). To train a GAN, update Wd with respect to the loss of D, and Wg
with respect to the loss of G. Keras alone cannot do two such updates in one pass, so the usual way was to build two
models and to compute G's and D's passes twice. Here D and G are built in Keras, as usual, and the updates are written
by hand, in raw TensorFlow: one `sess.run` per step.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import command
import data
import losses
import models
import two_model
from command import InputError
from losses import Loss, class_loss
from tf1 import distributed, keras, set_seed, tf
from training import memory
from training import run as training

# 1. Create D and G in Keras, as usual: article_generator() and article_discriminator() in models.py.

# 2. Write the parameter updates by hand.


def log_eps(i):
    # Not a constant: TensorFlow would make (1 - score) + 1e-11 into (1 + 1e-11) - score, which is 0 in float32 at 1.
    eps = tf.placeholder_with_default(tf.constant(1e-11, i.dtype), ())
    return tf.math.log(i + eps)


def article_losses(gscore, rscore, smoothing=0.1):
    """The losses of D and G from D's scores of generated and of real pictures, each (batch, 1) in (0, 1)."""
    # one-sided label smoothing: the target of real pictures is 0.9, not 1.0 (Salimans et al. 2016, section 3.4)
    dloss = -tf.reduce_mean(log_eps(1 - gscore) + smoothing * log_eps(1 - rscore) + (1 - smoothing) * log_eps(rscore))
    gloss = -tf.reduce_mean(log_eps(gscore))
    return dloss, gloss


LOSSES = {"article": Loss(article_losses, "sigmoid", tf.identity, 0.1), **losses.LOSSES}


def gan(
    generator: keras.Model,
    discriminator: keras.Model,
    losses: Callable = article_losses,
    learning_rate: float = 1e-4,
    beta1: float = 0.2,
    alternating: bool = False,
    batch_size: int | None = None,
    score: Callable = tf.identity,
    adam: type[tf.train.AdamOptimizer] = tf.train.AdamOptimizer,
) -> Callable[..., list[np.float32]]:
    """Wire a generator and a discriminator, in the default graph, into one training step.

    generator: (batch, *latent) -> (batch, *picture); discriminator: (batch, *picture) -> (batch, 1); both uncompiled.
    For AC-GAN, G's first input is a class (batch, 1), and D's second output is the classes' logits (batch, classes).
    alternating: D and G take turns, D first, instead of both moving in every step.
    batch_size: of every step, if it is always the same; this saves TensorFlow the work of finding out shapes.
    score: makes of D's output the D(x) that is reported, such as `tf.sigmoid` where D ends in logits.

    Returns `gan_feed(sess, images, noise, labels=None, scores=False) -> [dloss, gloss]`, which takes one step. `images`
    (batch, *picture) and `noise` (batch, *latent) are float32. For AC-GAN, `noise` is the list of G's inputs and
    `labels` (batch,) are the classes of `images`. `scores` appends the means of D(x) and D(G(z)) to the losses. The
    variables of `sess` are initialized. Raises InputError where the two networks do not fit.
    """
    if generator.output_shape[1:] != discriminator.input_shape[1:]:
        raise InputError(
            f"the generator makes pictures of shape {generator.output_shape[1:]}, "
            f"but the discriminator takes {discriminator.input_shape[1:]}"
        )

    noise = tf.nest.map_structure(lambda i: keras.Input(i.shape[1:], batch_size, dtype=i.dtype), generator.input)
    real_image = keras.Input(discriminator.input_shape[1:], batch_size)

    # Each pass over G or D happens once, and both losses share it.
    generated = generator(noise, training=True)
    rscore, *rclasses = tf.nest.flatten(discriminator(real_image, training=True))
    # D normalizes the two batches apart and keeps moving averages of both. Generated pictures wait for the averages
    # of the real ones: two unordered updates of one variable would race, and no run could be repeated.
    with tf.control_dependencies(discriminator.get_updates_for(real_image)):
        gscore, *gclasses = tf.nest.flatten(discriminator(generated, training=True))

    dloss, gloss = losses(gscore, rscore)
    mean_scores = [tf.reduce_mean(score(rscore)), tf.reduce_mean(score(gscore))]

    class_input = keras.Input((1,), batch_size, dtype="int32")
    if rclasses:  # AC-GAN: both networks want both kinds of pictures to be recognized
        auxiliary_loss = class_loss(class_input, *rclasses) + class_loss(noise[0], *gclasses)
        dloss, gloss = dloss + auxiliary_loss, gloss + auxiliary_loss

    optimizer = adam(learning_rate, beta1=beta1)
    step = tf.train.get_or_create_global_step()

    # update Wd w.r.t. D_loss
    grad_loss_wd = optimizer.compute_gradients(dloss, discriminator.trainable_weights)
    update_wd = optimizer.apply_gradients(grad_loss_wd, global_step=step if alternating else None)

    # update Wg w.r.t. G_loss. Both gradients are taken at the weights from before the step; only the application of
    # G's waits, because both share the optimizer's powers of beta, and each application multiplies them.
    grad_loss_wg = optimizer.compute_gradients(gloss, generator.trainable_weights)
    # In turns it waits for the pass over real pictures, whose dropout is of this step.
    with tf.control_dependencies([dloss if alternating else update_wd]):
        update_wg = optimizer.apply_gradients(grad_loss_wg, global_step=step)

    bn_updates = [
        discriminator.get_updates_for(real_image),
        discriminator.get_updates_for(generated),
        generator.get_updates_for(noise),
    ]

    # 3. Instead of using model.fit(), run the updates by hand.
    train_step = [update_wd, update_wg, bn_updates]
    # In turns, a step is the same graph and passes with one update left out. keras-adversarial has two ways: both
    # players on one batch, for which the second needs new passes, and turns from batch to batch, which is this one.
    turns = [[update_wd, bn_updates], [update_wg, bn_updates]]

    def gan_feed(sess, images, noise_batch, labels=None, scores=False):
        feed_dict = {real_image: images, **dict(zip(tf.nest.flatten(noise), tf.nest.flatten(noise_batch), strict=True))}
        if rclasses:
            feed_dict[class_input] = np.reshape(labels, (-1, 1))
        updates = turns[sess.run(step) % 2] if alternating else train_step
        results = [dloss, gloss, *(mean_scores if scores else [])]
        return sess.run([updates, results], feed_dict=feed_dict)[1]

    return gan_feed


class Interval(NamedTuple):
    """A length as on the command line: `500` steps, `25epochs` or, of checkpoints, `10min`."""

    number: int
    unit: str  # "", "epochs" or "min"

    def steps(self, per_epoch: int) -> int | None:
        """None for minutes."""
        return None if self.unit == "min" else self.number * (per_epoch if self.unit else 1)


def interval(text: str, units: tuple[str, ...] = ("epochs", "epoch")) -> Interval:
    unit = next((each for each in units if text.endswith(each)), "")
    try:
        return Interval(command.at_least(1)(text.removesuffix(unit)), "epochs" if unit == "epoch" else unit)
    except argparse.ArgumentTypeError as error:
        examples = " or of minutes as in 10min" if "min" in units else ""
        raise argparse.ArgumentTypeError(
            f"{error}; it is a number of steps, of epochs as in 25epochs{examples}"
        ) from None


def interval_or_minutes(text: str) -> Interval:
    return interval(text, ("epochs", "epoch", "min"))


def checkpoints_every(given: Interval | None, per_epoch: int) -> dict[str, int | None]:
    """How often to write a checkpoint. By default, what comes first of 500 steps and 10 minutes."""
    if given is None:
        return {"checkpoint_every": 500, "checkpoint_minutes": 10}
    return {
        "checkpoint_every": given.steps(per_epoch),
        "checkpoint_minutes": given.number if given.unit == "min" else None,
    }


RECIPES = {"one-pass": gan, "two-model": two_model.two_model}


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="dcgan_keras.py", description="Train a DCGAN, both networks in one pass per step.")
    add = parser.add_argument
    add("--dataset", choices=data.DATASETS, default="cifar10", help="what to train on (default: %(default)s)")
    add("--data-dir", type=Path, metavar="DIR", help="where the data are; without it, Keras downloads and caches them")
    add("--model", choices=models.MODELS, help="the pair of networks (default: the one that the dataset goes with)")
    add("--size", type=command.at_least(1), metavar="N", help="of the pictures, N x N, for models with several sizes")
    add("--loss", choices=LOSSES, help="what D and G minimize (default: the model's)")
    add("--smoothing", type=command.from_to(0, 0.5), metavar="S", help="the target of real pictures is 1 - S")
    add("--recipe", choices=RECIPES, default="one-pass", help="the article's way, or the slow one that it replaces")
    add("--updates", choices=("simultaneous", "alternating"), default="simultaneous", help="or D and G take turns")
    add("--learning-rate", type=command.from_to(1e-12, 1), metavar="RATE", help="Adam's (default: the model's)")
    add("--beta1", type=command.from_to(0, 0.999999), metavar="BETA", help="Adam's (default: the model's)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=command.at_least(1), default=10000, metavar="N", help="train up to this step (%(default)s)"
    )
    length.add_argument("--epochs", type=command.at_least(1), metavar="N", help="train up to the end of this epoch")
    add("--batch-size", type=command.at_least(1), metavar="N", help="of all devices together (default: the model's)")
    devices = "GPUs to train on, or all; without GPUs, parts of the CPU (default: %(default)s)"
    add("--devices", type=distributed.number_or_all, default=1, metavar="N", help=devices)
    add(
        "--seed", type=command.at_least(0, 2**32 - 1), default=0, metavar="N", help="of everything random (%(default)s)"
    )
    every = {"type": interval, "metavar": "N"}
    add("--sample-every", default="500", **every, help="steps, or epochs as in 25epochs (%(default)s)")
    add(
        "--checkpoint-every",
        type=interval_or_minutes,
        metavar="N",
        help="likewise, or minutes as in 10min (500 steps or 10min, whichever comes first)",
    )
    add("--keep-every", **every, help="also keep the generator of every N steps")
    add("--keep-checkpoints", action="store_true", help="and with it the whole state, for --from-step")
    add("--from-step", type=command.at_least(1), metavar="N", help="go back to step N; what came after is kept aside")
    add("--start-from", type=Path, metavar="DIR", help="begin a new run with the weights of the run in DIR")
    add("--out", type=Path, metavar="DIR", help="where everything goes that the run writes (samples/<dataset>)")
    add("--restart", action="store_true", help="start over; what is in --out is kept under another name")
    add("--skip-bad", action="store_true", help="leave out pictures of a folder that cannot be read, and list them")
    add("--check-cache", action="store_true", help="verify the checksum of a folder's decoded pictures first")
    add("--summary", action="store_true", help="print both networks, layer by layer with parameters, and leave")
    arguments = parser.parse_args(arguments)
    arguments.model = arguments.model or models.DEFAULT_MODEL[arguments.dataset]
    arguments.out = arguments.out or Path("samples") / arguments.dataset
    pair = models.pair(arguments.model, arguments.size)
    arguments.size = pair.shape[0]
    arguments.loss = arguments.loss or pair.loss
    if arguments.smoothing is None:
        arguments.smoothing = pair.smoothing if arguments.loss == pair.loss else LOSSES[arguments.loss].smoothing
    for name in ("learning_rate", "beta1", "batch_size"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(pair, name))
    return arguments


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    pair = models.pair(arguments.model, arguments.size)
    one_pass = arguments.recipe == "one-pass"
    if arguments.updates == "alternating" and not one_pass:
        raise InputError("--updates alternating is for --recipe one-pass; the two-model recipe has its own order")
    if not one_pass and (distributed.in_job() or arguments.devices != 1):
        raise InputError("--recipe two-model is for one device; TF_CONFIG and --devices are for --recipe one-pass")
    if arguments.keep_checkpoints and not arguments.keep_every:
        raise InputError("--keep-checkpoints is for --keep-every, which says how often")
    if arguments.restart and arguments.from_step:
        raise InputError("--restart starts over and --from-step does not: give one of them")
    set_seed(arguments.seed)
    batch_size = arguments.batch_size if one_pass else None
    job = distributed.Job() if arguments.summary else distributed.join(arguments.devices, batch_size)
    # Keras would open a session of its own for the models, and a process's first session sets up its devices for good.
    keras.backend.set_session(job.session())
    loss = LOSSES[arguments.loss]
    if arguments.summary:
        for model in (pair.generator(), pair.discriminator(activation=loss.activation)):
            model.summary()
        for name in training.NAMED:
            print(f"{name.replace('_', ' ')}: {getattr(arguments, name)}")
        print(f"batch size: {arguments.batch_size}\npixels: {pair.pixels}")
        return 0
    dataset = data.load(
        arguments.dataset,
        pair.shape,
        data_dir=arguments.data_dir,
        seed=arguments.seed,
        skip_bad=arguments.skip_bad,
        check_cache=arguments.check_cache,
        labelled=pair.with_classes,
    )
    classes = [len(dataset.classes)] if pair.with_classes else []
    with job.scope():
        generator, discriminator = pair.generator(*classes), pair.discriminator(*classes, activation=loss.activation)
    memory.check(generator, discriminator, arguments.batch_size, job.workers, job.replicas)
    options = {"alternating": arguments.updates == "alternating", "batch_size": batch_size}
    with job.scope():
        train_step = job.build(
            RECIPES[arguments.recipe],
            generator,
            discriminator,
            partial(loss.function, smoothing=arguments.smoothing),
            arguments.learning_rate,
            arguments.beta1,
            score=loss.score,
            **(options if one_pass else {}),
        )
    per_epoch = data.batches_per_epoch(dataset, arguments.batch_size)
    settings = training.Settings(
        pixels=pair.pixels,
        steps=arguments.epochs * per_epoch if arguments.epochs else arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        sample_every=arguments.sample_every.steps(per_epoch),
        **checkpoints_every(arguments.checkpoint_every, per_epoch),
        keep_every=arguments.keep_every and arguments.keep_every.steps(per_epoch),
        keep_checkpoints=arguments.keep_checkpoints,
        restart=arguments.restart,
        from_step=arguments.from_step,
        start_from=arguments.start_from,
        **{name: getattr(arguments, name) for name in training.NAMED},
    )
    return training.train(train_step, generator, discriminator, dataset, arguments.out, settings, job)


if __name__ == "__main__":
    command.run(main)
