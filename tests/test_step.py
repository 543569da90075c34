"""The losses and the step of `gan()`, on numbers that can be worked out by hand."""

import numpy as np
import pytest
from conftest import class_pair

from command import InputError
from dcgan_keras import LOSSES, article_losses, gan
from losses import class_loss
from tf1 import keras, tf
from training.noise import feed_for


class Fetches:
    """Stands in for a session, to see what a step asks of it and feeds."""

    def run(self, fetches, feed_dict):
        self.fetches, self.feed_dict = fetches, feed_dict
        return [None, [0, 0]]


# The losses.


def test_losses_on_numbers_worked_out_by_hand(sess):
    dloss, gloss = sess.run(article_losses(tf.constant([[0.25], [0.5]]), tf.constant([[0.8], [0.5]])))
    by_hand = -(np.log(0.75) + np.log(0.5) + 0.1 * (np.log(0.2) + np.log(0.5)) + 0.9 * (np.log(0.8) + np.log(0.5))) / 2
    assert dloss == pytest.approx(by_hand)
    assert gloss == pytest.approx(-(np.log(0.25) + np.log(0.5)) / 2)


# Where a sigmoid in float32 reaches 1 (17) and leaves the normal numbers (-88) and the positive ones (-104).
@pytest.mark.parametrize("sign", [1, -1])
def test_steps_with_a_saturated_discriminator_keep_all_weights_finite(sign, sess):
    layers = keras.layers
    generator, _ = small_pair()
    discriminator = keras.Sequential(
        [layers.InputLayer((5,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1, activation="sigmoid")]
    )
    scores = []

    def losses(gscore, rscore):
        scores.extend([gscore, rscore])
        return article_losses(gscore, rscore)

    gan_feed = gan(generator, discriminator, losses=losses)
    sess.run(tf.global_variables_initializer())
    step = Fetches()
    images, noise = np.linspace(-1, 1, 30).reshape(6, 5), np.linspace(-2, 2, 18).reshape(6, 3)
    gan_feed(step, images, noise)
    *_, (kernel, bias) = (layer.weights for layer in discriminator.layers)
    kernel.load(np.zeros(kernel.shape), sess)
    seen = set()
    for size in (16, 16.63, 16.64, 17, 87, 88, 88.73, 89, 103, 104, 1e4, np.finfo(np.float32).max):
        bias.load([sign * size], sess)
        seen.update(np.ravel(sess.run(scores, step.feed_dict)))
        for _ in range(3):
            assert np.isfinite(gan_feed(sess, images, noise)).all()
        for variable, value in zip(tf.global_variables(), sess.run(tf.global_variables()), strict=True):
            assert np.isfinite(value).all(), (size, variable.name)
        kernel.load(np.zeros(kernel.shape), sess)
    assert (1.0 if sign > 0 else 0.0) in seen  # exactly


def logit(score):
    return np.log(score / (1 - score))


def output_for(name, scores):
    """What D has to put out for these scores: `minimax` and `bce` take logits. (batch, 1) float32."""
    scores = np.float32(scores).reshape(-1, 1)
    return tf.constant(logit(scores) if name in ("minimax", "bce") else scores)


def by_hand(name):
    """The losses of D and G for D's scores 0.25 and 0.5 of generated and 0.8 and 0.5 of real pictures."""
    log = np.log
    d = -(log(0.8) + log(0.75) + log(0.5) + log(0.5)) / 2
    return {
        "minimax": (d, (log(0.75) + log(0.5)) / 2),
        "bce": (d, -(log(0.25) + log(0.5)) / 2),
        "lsgan": ((0.2**2 + 0.5**2 + 0.25**2 + 0.5**2) / 4, (0.75**2 + 0.5**2) / 4),
    }[name]


@pytest.mark.parametrize("name", ["minimax", "bce", "lsgan"])
def test_other_losses_on_numbers_worked_out_by_hand(name, sess):
    losses = sess.run(LOSSES[name].function(output_for(name, [0.25, 0.5]), output_for(name, [0.8, 0.5])))
    assert losses == pytest.approx(by_hand(name))


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_moves_the_best_score_of_real_pictures(name, sess):
    """From 1 to 1 - smoothing: below it D's loss falls, above it rises."""
    default = LOSSES[name].smoothing
    for smoothing in (0.01, 0.3, default):
        scores = output_for(name, [0.99 * (1 - smoothing), min(1.01 * (1 - smoothing), 0.999)])
        options = {} if smoothing == default else {"smoothing": smoothing}
        dloss, _ = LOSSES[name].function(output_for(name, [0.5, 0.5]), scores, **options)
        signs = np.sign(sess.run(tf.gradients(dloss, scores)[0])).ravel().tolist()
        assert signs == ([-1, 1] if smoothing else [-1, -1]), smoothing


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["minimax", "bce"])
def test_losses_from_logits_are_exact_however_sure_the_discriminator_is(name, sign, sess):
    """At +-200 a sigmoid in float32 is 0 or 1: a loss of scores would be infinite or cut off, its slope 0. Where D is
    right, G learns nothing by V (minimax) and most by -log D (Goodfellow et al. 2014, section 3)."""
    generated, real = tf.constant([[-200.0 * sign]]), tf.constant([[200.0 * sign]])
    dloss, gloss = LOSSES[name].function(generated, real)
    slopes = [tf.gradients(dloss, [generated, real]), tf.gradients(gloss, generated)]
    (dloss, gloss), (of_dloss, of_gloss) = sess.run([[dloss, gloss], slopes])
    right = sign > 0  # about both kinds of pictures
    assert dloss == pytest.approx(0 if right else 400)
    assert np.ravel(of_dloss) == pytest.approx([0, 0] if right else [1, -1])
    if name == "bce":
        assert (gloss, np.ravel(of_gloss)[0]) == pytest.approx((200, -1) if right else (0, 0))
    else:
        assert (gloss, np.ravel(of_gloss)[0]) == pytest.approx((0, 0) if right else (-200, -1))


def test_the_articles_loss_stays_finite_when_scores_round_to_0_or_1(sess):
    """In a graph of a batch of any size TensorFlow's optimizer once made log(0) of log((1 - 1) + 1e-11)."""
    logits = tf.placeholder(tf.float32, (None, 1, 1, 1))
    score = tf.reshape(tf.sigmoid(logits), (-1, 1))
    losses = article_losses(score, score)
    for logit in (-200, 200):
        assert np.isfinite(sess.run(losses, {logits: np.full((8, 1, 1, 1), logit)})).all()


def test_class_loss_is_the_log_likelihood_of_the_right_class(sess):
    probabilities = np.float32([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    loss = sess.run(class_loss(tf.constant([[1], [0]]), tf.constant(np.log(probabilities) + 3)))
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)


@pytest.mark.parametrize(("right", "loss", "slope"), [(0, 0, 0), (1, 400, -1)])
def test_class_loss_is_exact_however_sure_the_discriminator_is(right, loss, slope, sess):
    logits = tf.constant([[200.0, -200.0]])
    value = class_loss(tf.constant([[right]]), logits)
    value, (slopes,) = sess.run([value, tf.gradients(value, logits)])
    assert (value, slopes[0, 1]) == pytest.approx((loss, slope))


# The step.


def small_pair():
    """A pair of any shape: 3 numbers in, 5 out."""
    layers = keras.layers
    generator = keras.Sequential([layers.InputLayer((3,)), layers.Dense(5, activation="tanh")])
    discriminator = keras.Sequential(
        [layers.InputLayer((5,)), layers.Dense(4, activation="tanh"), layers.Dense(1, activation="sigmoid")]
    )
    return generator, discriminator


@pytest.fixture
def float64():
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx("float32")


def test_gradients_of_both_updates_agree_with_numerical_differences(float64, sess):
    generator, discriminator = small_pair()
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    rng = np.random.default_rng(0)
    images, noise = rng.standard_normal((6, 5)), rng.standard_normal((6, 3))
    step = Fetches()
    gan_feed(step, images, noise)
    losses = step.fetches[1]

    models_of = ((discriminator, losses[0]), (generator, losses[1]))
    numerical = {}
    for model, loss in models_of:
        for weight in model.trainable_weights:
            value = sess.run(weight)
            slopes = np.empty_like(value)
            for index in np.ndindex(value.shape):
                sides = []
                for change in (1e-5, -1e-5):
                    moved = value.copy()
                    moved[index] += change
                    weight.load(moved, sess)
                    sides.append(sess.run(loss, step.feed_dict))
                slopes[index] = (sides[0] - sides[1]) / 2e-5
            weight.load(value, sess)
            numerical[weight.op.name] = slopes

    gan_feed(sess, images, noise)
    # After one step Adam's first moment is (1 - beta1) times the gradient.
    moments = {v.op.name[: -len("/Adam")]: sess.run(v) for v in tf.global_variables() if v.op.name.endswith("/Adam")}
    assert moments.keys() == numerical.keys()
    for name, slopes in numerical.items():
        np.testing.assert_allclose(moments[name] / (1 - 0.2), slopes, rtol=1e-6, atol=1e-9, err_msg=name)


def test_powers_of_beta_are_shared_and_both_updates_multiply_them(sess):
    generator, discriminator = small_pair()
    gan_feed = gan(generator, discriminator, beta1=0.5)
    sess.run(tf.global_variables_initializer())
    for _ in range(3):
        gan_feed(sess, np.ones((2, 5)), np.ones((2, 3)))
    powers = [sess.run(v) for v in tf.global_variables() if "beta1_power" in v.op.name]
    assert powers == [pytest.approx(0.5**7)]  # one accumulator; it begins at beta1 and is multiplied twice a step


def test_a_step_moves_each_network_by_its_own_loss_alone(sess):
    """A discriminator that gives no gradient to the generator leaves it as it was, and the other way round."""
    layers = keras.layers
    generator, _ = small_pair()
    blind = keras.Sequential([layers.InputLayer((5,)), layers.Dense(1, kernel_initializer="zeros", name="blind")])
    gan_feed = gan(generator, blind, losses=lambda gscore, rscore: (tf.reduce_mean(rscore), tf.reduce_mean(gscore)))
    sess.run(tf.global_variables_initializer())
    before = generator.get_weights()
    gan_feed(sess, np.ones((2, 5)), np.ones((2, 3)))
    for old, new in zip(before, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (blind.get_weights()[0] < 0).all()  # it does move, down the slope of its own loss


def test_class_losses_are_added_to_both_sides(sess):
    """Where D's outputs are all 0 all classes are as likely: each batch adds log(classes) to both losses."""
    pair = class_pair()
    generator, discriminator = pair["generator"](5), pair["discriminator"](5)
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    discriminator.set_weights([np.zeros_like(weight) for weight in discriminator.get_weights()])
    losses = gan_feed(sess, np.zeros((4, 32, 32, 3)), feed_for(generator, 0, 1, 4, 5), np.array([0, 4, 2, 2]))
    assert losses == pytest.approx([np.log(4) + 2 * np.log(5), np.log(2) + 2 * np.log(5)])


def test_with_classes_every_moving_average_moves(sess):
    """G is a model inside another here."""
    generator, discriminator = class_pair()["generator"](5), class_pair()["discriminator"](5)
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    averages = [weight for weight in generator.weights if "moving" in weight.name]
    before = sess.run(averages)
    gan_feed(sess, np.zeros((4, 32, 32, 3)), feed_for(generator, 0, 1, 4, 5), np.zeros(4))
    assert len(averages) == 2
    for old, new in zip(before, sess.run(averages), strict=True):
        assert (old != new).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_means_of_the_scores_are_reported_when_asked_for(name, sess):
    generator, _ = small_pair()
    loss = LOSSES[name]
    layers = keras.layers
    discriminator = keras.Sequential([layers.InputLayer((5,)), layers.Dense(1, activation=loss.activation)])
    gan_feed = gan(generator, discriminator, loss.function, learning_rate=1e-12, score=loss.score)
    sess.run(tf.global_variables_initializer())
    kernel = discriminator.weights[0]
    kernel.load(np.full((5, 1), 0.2, np.float32), sess)
    images, noise = np.ones((2, 5)), np.zeros((2, 3))  # G makes 0 of 0
    assert len(gan_feed(sess, images, noise)) == 2
    scores = gan_feed(sess, images, noise, scores=True)[2:]
    expected = np.array([1, 0]) if name == "lsgan" else 1 / (1 + np.exp(-np.array([1, 0])))
    assert scores == pytest.approx(expected, abs=1e-5)


def test_when_they_alternate_one_network_moves_per_step(sess):
    generator, discriminator = small_pair()
    gan_feed = gan(generator, discriminator, alternating=True)
    sess.run(tf.global_variables_initializer())
    moved = []
    for _ in range(4):
        before = generator.get_weights(), discriminator.get_weights()
        gan_feed(sess, np.ones((2, 5)), np.ones((2, 3)))
        after = generator.get_weights(), discriminator.get_weights()
        pairs = (zip(old, new, strict=True) for old, new in zip(before, after, strict=True))
        moved.append(tuple(any((a != b).any() for a, b in pair) for pair in pairs))
    assert moved == [(False, True), (True, False)] * 2


# Pairs of one's own.


def test_regularizers_of_both_networks_are_part_of_the_losses(sess):
    layers = keras.layers
    generator = keras.Sequential([layers.InputLayer((3,)), layers.Dense(5, kernel_regularizer="l2")])
    discriminator = keras.Sequential(
        [
            layers.InputLayer((5,)),
            layers.Dense(4, kernel_regularizer="l1", activity_regularizer="l2"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    gan_feed = gan(generator, discriminator, lambda g, r: (0 * tf.reduce_mean(g + r), 0 * tf.reduce_mean(g)))
    sess.run(tf.global_variables_initializer())
    images, noise = np.ones((2, 5), np.float32), np.ones((2, 3), np.float32)
    kernel, bias, *_ = discriminator.get_weights()
    g_kernel, g_bias = generator.get_weights()
    activities = [0.01 * np.sum((x @ kernel + bias) ** 2) / 2 for x in (images, noise @ g_kernel + g_bias)]
    dloss, gloss = gan_feed(sess, images, noise)
    assert dloss == pytest.approx(0.01 * np.abs(kernel).sum() + sum(activities), rel=1e-4)
    assert gloss == pytest.approx(0.01 * np.sum(g_kernel**2), rel=1e-4)
    assert (discriminator.get_weights()[0] != kernel).any() and (generator.get_weights()[0] != g_kernel).any()


class Counts(keras.layers.Layer):
    """Counts its calls, with `add_update` or, as layers for TensorFlow 2 do, by assigning in `call`."""

    def __init__(self, registered):
        super().__init__()
        self.registered = registered

    def build(self, _):
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        update = self.count.assign_add(1.0)
        if self.registered:
            self.add_update(update)
        return x


@pytest.mark.parametrize("of", ["generator", "discriminator"])
def test_a_layer_that_updates_its_state_runs_or_is_refused_by_name(of, sess):
    def pair(registered):
        counts, (generator, discriminator) = Counts(registered), small_pair()
        if of == "generator":
            return keras.Sequential([keras.layers.InputLayer((3,)), counts, generator]), discriminator, counts
        return generator, keras.Sequential([keras.layers.InputLayer((5,)), counts, discriminator]), counts

    generator, discriminator, counts = pair(True)
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    gan_feed(sess, np.ones((2, 5)), np.ones((2, 3)))
    assert sess.run(counts.count) == (1 if of == "generator" else 2)
    with pytest.raises(InputError, match=r"counts_1.* updates its state in the forward pass.*add_update"):
        gan(*pair(False)[:2])


def test_pairs_that_cannot_be_trained_are_refused_by_name(graph):
    layers = keras.layers
    generator, discriminator = small_pair()
    wrong = keras.Sequential([layers.InputLayer((100,)), layers.Dense(12)])
    with pytest.raises(InputError, match=r"\(None, 12\)|\(12,\).*\(5,\)"):
        gan(wrong, discriminator)
    linear = keras.Sequential([layers.InputLayer((5,)), layers.Dense(1)])
    with pytest.raises(InputError, match=r"ends in BiasAdd.*sigmoid"):
        gan(generator, linear)
    import keras as keras_3

    of_keras_3 = keras_3.Sequential([keras_3.Input((3,)), keras_3.layers.Dense(5)])
    with pytest.raises(InputError, match=r"the generator is a keras\..*Sequential, not a model of Keras 2"):
        gan(of_keras_3, discriminator)
    discriminator.trainable = False
    for frozen in (discriminator, keras.Sequential([layers.InputLayer((5,)), discriminator])):
        with pytest.raises(InputError, match=r"the discriminator has nothing to train.*trainable"):
            gan(generator, frozen)
