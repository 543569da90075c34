"""Fast DCGAN in Keras: both networks updated in one forward-backward pass.

    python dcgan_keras.py --dataset cifar10

After "Fast DCGAN in Keras" (ctmakro, February 2017). To train a GAN, update Wd with respect to the loss of D, and Wg
with respect to the loss of G. Keras alone cannot do two such updates in one pass, so the usual way was to build two
models and to compute G's and D's passes twice. Here D and G are built in Keras, as usual, and the updates are written
by hand, in raw TensorFlow: one `sess.run` per step.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import command
import data
import models
import training
from command import InputError
from tf1 import keras, set_seed, tf

# 1. Create D and G in Keras, as usual: article_generator() and article_discriminator() in models.py.

# 2. Write the parameter updates by hand.


def log_eps(i):
    # Not a constant: TensorFlow would make (1 - score) + 1e-11 into (1 + 1e-11) - score, which is 0 in float32 at 1.
    eps = tf.placeholder_with_default(tf.constant(1e-11, i.dtype), ())
    return tf.math.log(i + eps)


def article_losses(gscore, rscore):
    """The losses of D and G from D's scores of generated and of real pictures, each (batch, 1) in (0, 1)."""
    # one-sided label smoothing: the target of real pictures is 0.9, not 1.0 (Salimans et al. 2016, section 3.4)
    dloss = -tf.reduce_mean(log_eps(1 - gscore) + 0.1 * log_eps(1 - rscore) + 0.9 * log_eps(rscore))
    gloss = -tf.reduce_mean(log_eps(gscore))
    return dloss, gloss


LOSSES = {"article": article_losses}


def gan(
    generator: keras.Model,
    discriminator: keras.Model,
    losses: Callable = article_losses,
    learning_rate: float = 1e-4,
    beta1: float = 0.2,
) -> Callable[[tf.Session, np.ndarray, np.ndarray], list[np.float32]]:
    """Wire a generator and a discriminator, in the default graph, into one training step.

    generator: (batch, *latent) -> (batch, *picture); discriminator: (batch, *picture) -> (batch, 1), both uncompiled.
    Returns `gan_feed(sess, images, noise) -> [dloss, gloss]`, which takes one step: `images` (batch, *picture) and
    `noise` (batch, *latent) are float32 and `sess` is a session on this graph whose variables are initialized.
    Raises InputError when the two do not fit.
    """
    if generator.output_shape[1:] != discriminator.input_shape[1:]:
        raise InputError(
            f"the generator makes pictures of shape {generator.output_shape[1:]}, "
            f"but the discriminator takes {discriminator.input_shape[1:]}"
        )

    noise = keras.Input(shape=generator.input_shape[1:])
    real_image = keras.Input(shape=discriminator.input_shape[1:])

    # Each pass over G or D happens once, and both losses share it.
    generated = generator(noise, training=True)
    rscore = discriminator(real_image, training=True)
    # D normalizes the two batches apart and keeps moving averages of both. Generated pictures wait for the averages
    # of the real ones: two unordered updates of one variable would race, and no run could be repeated.
    with tf.control_dependencies(discriminator.get_updates_for(real_image)):
        gscore = discriminator(generated, training=True)

    dloss, gloss = losses(gscore, rscore)

    optimizer = tf.train.AdamOptimizer(learning_rate, beta1=beta1)

    # update Wd w.r.t. D_loss
    grad_loss_wd = optimizer.compute_gradients(dloss, discriminator.trainable_weights)
    update_wd = optimizer.apply_gradients(grad_loss_wd)

    # update Wg w.r.t. G_loss. Both gradients are taken at the weights from before the step; only the application of
    # G's waits, because both share the optimizer's powers of beta, and each application multiplies them.
    grad_loss_wg = optimizer.compute_gradients(gloss, generator.trainable_weights)
    with tf.control_dependencies([update_wd]):
        update_wg = optimizer.apply_gradients(grad_loss_wg, global_step=tf.train.get_or_create_global_step())

    bn_updates = [
        discriminator.get_updates_for(real_image),
        discriminator.get_updates_for(generated),
        generator.get_updates_for(noise),
    ]

    # 3. Instead of using model.fit(), run the updates by hand.
    train_step = [update_wd, update_wg, bn_updates]

    def gan_feed(sess, images, noise_batch):
        return sess.run([train_step, [dloss, gloss]], feed_dict={noise: noise_batch, real_image: images})[1]

    return gan_feed


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="dcgan_keras.py", description="Train a DCGAN, both networks in one pass per step.")
    add = parser.add_argument
    add("--dataset", choices=data.DATASETS, default="cifar10", help="what to train on (default: %(default)s)")
    add("--data-dir", type=Path, metavar="DIR", help="where the data are; without it, Keras downloads and caches them")
    add("--model", choices=models.MODELS, help="the pair of networks (default: the one that the dataset goes with)")
    add("--steps", type=command.at_least(1), default=10000, metavar="N", help="train up to this step (%(default)s)")
    add("--batch-size", type=command.at_least(1), default=32, metavar="N", help="default: %(default)s")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="of everything random (%(default)s)")
    add("--sample-every", type=command.at_least(1), default=500, metavar="N", help="steps (%(default)s)")
    add("--checkpoint-every", type=command.at_least(1), default=500, metavar="N", help="steps (%(default)s)")
    add("--keep-every", type=command.at_least(1), metavar="N", help="also keep the generator of every N steps")
    add("--out", type=Path, metavar="DIR", help="where everything goes that the run writes (samples/<dataset>)")
    add("--restart", action="store_true", help="begin anew; what is in --out is kept under another name")
    add("--skip-bad", action="store_true", help="leave out pictures of a folder that cannot be read, and list them")
    arguments = parser.parse_args(arguments)
    arguments.model = arguments.model or models.DEFAULT_MODEL[arguments.dataset]
    arguments.out = arguments.out or Path("samples") / arguments.dataset
    return arguments


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    pair = models.MODELS[arguments.model]
    set_seed(arguments.seed)
    generator, discriminator = pair.generator(), pair.discriminator()
    dataset = data.load(
        arguments.dataset,
        discriminator.input_shape[1:],
        data_dir=arguments.data_dir,
        seed=arguments.seed,
        skip_bad=arguments.skip_bad,
    )
    return training.train(
        gan(generator, discriminator, learning_rate=pair.learning_rate, beta1=pair.beta1),
        generator,
        discriminator,
        dataset,
        arguments.out,
        pixels=pair.pixels,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        sample_every=arguments.sample_every,
        checkpoint_every=arguments.checkpoint_every,
        keep_every=arguments.keep_every,
        restart=arguments.restart,
        settings={"model": arguments.model, "dataset": arguments.dataset},
    )


if __name__ == "__main__":
    command.run(main)
