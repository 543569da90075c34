"""Fast DCGAN in Keras: both networks updated in one forward-backward pass.

    python dcgan_keras.py --dataset cifar10

After "Fast DCGAN in Keras" (ctmakro, February 2017). To train a GAN, update Wd with respect to the loss of D, and Wg
with respect to the loss of G. Keras alone cannot do two such updates in one pass, so the usual way was to build two
models and to compute G's and D's passes twice. Here D and G are built in Keras, as usual, and the updates are written
by hand, in raw TensorFlow: one `sess.run` per step.
"""

from training.settings import parse

if __name__ == "__main__":
    parse()  # answers --help and refuses a wrong option before TensorFlow is imported, which takes seconds

from collections.abc import Callable
from functools import partial

import numpy as np

import command
import data
import models
import two_model
from command import InputError
from losses import OTHER_LOSSES, Loss, check_scores, class_loss
from tf1 import distributed, keras, set_seed, tf
from tf1.graph import check_updates, in_one_product, regularized, updates
from training.health import warn_of_memory
from training.run import Run

# 1. Create D and G in Keras, as usual: article_generator() and article_discriminator() in models.py.

# 2. Write the parameter updates by hand.


def log_eps(i):
    # Not a constant: TensorFlow would make (1 - score) + 1e-11 into (1 + 1e-11) - score, which is 0 in float32 at 1.
    eps = tf.placeholder_with_default(tf.constant(1e-11, i.dtype), ())
    return tf.math.log(i + eps)


def article_losses(gscore, rscore, smoothing=0.1):
    """The losses of D and G from D's scores of generated and of real images, each (batch, 1) in (0, 1)."""
    check_scores(gscore)
    # one-sided label smoothing: the target of real images is 0.9, not 1.0 (Salimans et al. 2016, section 3.4)
    dloss = -tf.reduce_mean(log_eps(1 - gscore) + smoothing * log_eps(1 - rscore) + (1 - smoothing) * log_eps(rscore))
    gloss = -tf.reduce_mean(log_eps(gscore))
    return dloss, gloss


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

    generator: (batch, *latent) -> (batch, *image); discriminator: (batch, *image) -> (batch, 1); both uncompiled.
    For AC-GAN, G's first input is a class (batch, 1), and D's second output is the classes' logits (batch, classes).
    alternating: update D and G in alternate steps, D first, instead of both in every step.
    batch_size: of every step, if it is always the same; this saves TensorFlow the work of finding out shapes.
    score: turns D's output into the D(x) that is reported, such as `tf.sigmoid` where D ends in logits.

    Returns `gan_feed(sess, images, noise, labels=None, scores=False) -> [dloss, gloss]`, which takes one step. `images`
    (batch, *image) and `noise` (batch, *latent) are float32. For AC-GAN, `noise` is the list of G's inputs and `labels`
    (batch,) are the classes of `images`. `scores` appends the means of D(x) and D(G(z)) to the losses. The variables of
    `sess` are initialized. Raises InputError where the two networks do not fit, or cannot be trained.
    """
    models.check(generator, discriminator)
    before = set(tf.get_default_graph().get_operations())
    noise = tf.nest.map_structure(lambda i: keras.Input(i.shape[1:], batch_size, dtype=i.dtype), generator.input)
    real_image = keras.Input(discriminator.input_shape[1:], batch_size)

    # Each pass over G or D happens once, and both losses share it.
    generated = generator(noise, training=True)
    rscore, *rclasses = tf.nest.flatten(discriminator(real_image, training=True))
    # D normalizes the two batches separately and keeps moving averages of both. The averages of the real images come
    # first: two unordered updates of one variable would race, and no run could be repeated.
    with tf.control_dependencies(updates(discriminator, real_image, since=before)):
        gscore, *gclasses = tf.nest.flatten(discriminator(generated, training=True))

    # What the layers update in these passes: the moving averages of batch normalization.
    bn_updates = [updates(discriminator, real_image, generated, since=before), updates(generator, noise, since=before)]
    check_updates(bn_updates, since=before)

    dloss, gloss = losses(gscore, rscore)
    mean_scores = [tf.reduce_mean(score(rscore)), tf.reduce_mean(score(gscore))]

    class_input = keras.Input((1,), batch_size, dtype="int32")
    if rclasses:  # AC-GAN: both networks want the classes of real and of generated images to be recognized
        auxiliary_loss = class_loss(class_input, *rclasses) + class_loss(noise[0], *gclasses)
        dloss, gloss = dloss + auxiliary_loss, gloss + auxiliary_loss
    dloss = regularized(dloss, discriminator, real_image, generated)
    gloss = regularized(gloss, generator, noise)

    optimizer = adam(learning_rate, beta1=beta1)
    step = tf.train.get_or_create_global_step()

    # update Wd w.r.t. D_loss
    grad_loss_wd = optimizer.compute_gradients(dloss, discriminator.trainable_weights)
    grad_loss_wd = [(in_one_product(gradient, weights), weights) for gradient, weights in grad_loss_wd]
    update_wd = optimizer.apply_gradients(grad_loss_wd, global_step=step if alternating else None)

    # update Wg w.r.t. G_loss. Both gradients are taken at the weights from before the step. Only the application of
    # G's waits, because both share the optimizer's powers of beta, and each application multiplies them.
    grad_loss_wg = optimizer.compute_gradients(gloss, generator.trainable_weights)
    # When they alternate, it waits for the pass over real images, whose dropout is that of this step.
    with tf.control_dependencies([dloss if alternating else update_wd]):
        update_wg = optimizer.apply_gradients(grad_loss_wg, global_step=step)

    # One step is one `sess.run` of this list.
    train_step = [update_wd, update_wg, bn_updates]
    # To alternate, run the same graph and passes with one update left out. (keras-adversarial can also update both
    # players on one batch, for which the second needs new passes.)
    turns = [[update_wd, bn_updates], [update_wg, bn_updates]]

    def gan_feed(sess, images, noise_batch, labels=None, scores=False):
        feed_dict = {real_image: images, **dict(zip(tf.nest.flatten(noise), tf.nest.flatten(noise_batch), strict=True))}
        if rclasses:
            feed_dict[class_input] = np.reshape(labels, (-1, 1))
        fetches = turns[sess.run(step) % 2] if alternating else train_step
        results = [dloss, gloss, *(mean_scores if scores else [])]
        return sess.run([fetches, results], feed_dict=feed_dict)[1]

    return gan_feed


# 3. Instead of using model.fit(), run the updates by hand.


def train(gan_feed, generator, discriminator, dataset, settings, job=None) -> int:
    """Train up to step `settings.steps`, resuming from what is in `settings.out`. Returns an exit code.

    gan_feed: what `gan()` returns. Raises the errors of `training.run.Run`.
    """
    with Run(generator, discriminator, dataset, settings, job) as run:
        for step in run.steps():  # resumes; ends early, with everything saved, after Ctrl-C
            images, labels = next(run.batches)
            losses = gan_feed(run.sess, images, run.noise(step), labels, scores=True)
            run.record(step, losses)  # logs, samples and checkpoints when they are due; NaN is an error
    return run.exit_code


LOSSES = {"article": Loss(article_losses, "sigmoid", tf.identity, 0.1), **OTHER_LOSSES}
RECIPES = {"one-pass": gan, "two-model": two_model.two_model}


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    pair = models.pair(settings.model, settings.size, 1 if settings.grey else None)
    settings.loss = settings.loss or pair.loss
    loss, one_pass = LOSSES[settings.loss], settings.recipe == "one-pass"
    settings.complete(pair, loss.smoothing, models.source(settings.model))
    if not one_pass and distributed.in_job():
        raise InputError("--recipe two-model is for one device; TF_CONFIG is for --recipe one-pass")

    set_seed(settings.seed)
    batch_size = settings.batch_size if one_pass else None
    job = distributed.Job() if settings.summary else distributed.join(settings.devices, batch_size, pair.shape)
    # Keras would open a session of its own for the models, and a process's first session sets up its devices for good.
    keras.backend.set_session(job.session())
    if settings.summary:
        for model in (pair.generator(), pair.discriminator(activation=loss.activation)):
            model.summary()
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in settings.identity().items()))
        return 0

    dataset = data.load(
        settings.dataset,
        pair.shape,
        data_dir=settings.data_dir,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
        check_cache=settings.check_cache,
        labelled=pair.with_classes,
        out=settings.out,
    )
    settings.count_steps(data.batches_per_epoch(dataset, settings.batch_size))
    classes = [len(dataset.classes)] if pair.with_classes else []
    with job.scope():
        generator, discriminator = pair.generator(*classes), pair.discriminator(*classes, activation=loss.activation)
        warn_of_memory([generator, discriminator], settings.batch_size // job.workers)
        options = {"alternating": settings.updates == "alternating", "batch_size": batch_size} if one_pass else {}
        gan_feed = job.build(
            RECIPES[settings.recipe],
            generator,
            discriminator,
            partial(loss.function, smoothing=settings.smoothing),
            settings.learning_rate,
            settings.beta1,
            score=loss.score,
            **options,
        )
    return train(gan_feed, generator, discriminator, dataset, settings, job)


if __name__ == "__main__":
    command.run(main)
