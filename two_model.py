"""The slow recipe that the article argues against: two Keras models, trained in turn.

One is the discriminator, the other the generator with the frozen discriminator behind it. A step runs G twice and D
three times forward; the article's step runs G once and D twice. "GAN Lab" and "Making DCGAN on Keras" train like this.
Networks, losses, data and outputs are those of `gan()`.
"""

import warnings
from collections.abc import Callable

import numpy as np

from tf1 import keras, tf


def two_model(
    generator: keras.Model,
    discriminator: keras.Model,
    losses: Callable,
    learning_rate: float = 1e-4,
    beta1: float = 0.2,
    score: Callable = tf.identity,
) -> Callable[..., list[np.float32]]:
    """Like `dcgan_keras.gan()`, but with two models. It compiles the discriminator.

    losses: D's loss is a term of `gscore` plus a term of `rscore`, and G's loss depends only on `gscore`.

    A step updates D on the real batch, then D on the generated batch, then G through the updated D. G makes the batch
    for D by `predict`, with its moving averages. "Making DCGAN on Keras" and "GAN Lab" draw new noise for G's update;
    here the noise of the step is used again, because `gan()` is fed no more.
    """
    rest = tf.constant([[0.5]])

    # Keras asks for the loss of one batch, and tells by `real` (1 or 0) which. The score of the other one rests, and
    # what both rests add to the sum of the two losses is taken off by halves.
    def dloss_of_batch(real, score):
        dloss = tf.where(real[0, 0] > 0.5, losses(rest, score)[0], losses(score, rest)[0])
        return (dloss - losses(rest, rest)[0] / 2) * tf.ones_like(score[:, 0])

    def gloss_of_batch(_, score):
        return losses(score, rest)[1] * tf.ones_like(score[:, 0])

    def compiled(model, loss):
        heads = len(model.outputs) - 1  # AC-GAN's second
        optimizer = keras.optimizers.legacy.Adam(learning_rate, beta_1=beta1, epsilon=1e-8)
        class_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, [loss, *[class_loss] * heads])
        model._make_train_function()
        return model

    # Keras makes these functions when they are first called, but the graph is closed by then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a property that Keras itself reads
        compiled(discriminator, dloss_of_batch)
        # Keras' metrics would cost variables, and a run to reset them after each batch.
        mean_score, mean_scores = tf.reduce_mean(score(discriminator.outputs[0])), []
        discriminator.train_function.fetches = [mean_score]
        discriminator.train_function.fetch_callbacks[mean_score] = mean_scores.append
        noise = tf.nest.map_structure(lambda i: keras.Input(i.shape[1:], dtype=i.dtype), generator.input)
        discriminator.trainable = False
        adversarial = compiled(keras.Model(noise, discriminator(generator(noise))), gloss_of_batch)
        discriminator.trainable = True
        generator._make_predict_function()
    # Dropout draws its masks by the global step. D's two updates are one and the same graph, so in the second the step
    # is another number, -1 - step.
    step = tf.train.get_or_create_global_step()
    other_masks, next_step = tf.assign(step, -1 - step).op, tf.assign(step, -step).op

    def feed(sess, images, noise_batch, labels=None, scores=False):
        keras.backend.set_session(sess)
        real, fake = np.ones((len(images), 1)), np.zeros((len(images), 1))
        if len(discriminator.outputs) > 1:  # AC-GAN
            real_classes, fake_classes = [np.reshape(labels, (-1, 1))], [noise_batch[0]]
        else:
            real_classes, fake_classes = [], []
        mean_scores.clear()
        generated = generator.predict_on_batch(noise_batch)
        real_loss = discriminator.train_on_batch(images, [real, *real_classes])
        sess.run(other_masks)
        fake_loss = discriminator.train_on_batch(generated, [fake, *fake_classes])
        gloss = adversarial.train_on_batch(noise_batch, [real, *fake_classes])
        sess.run(next_step)
        results = [
            np.ravel(real_loss)[0] + np.ravel(fake_loss)[0],
            np.ravel(gloss)[0],
            *(mean_scores if scores else []),
        ]
        return [np.float32(result) for result in results]

    return feed
