import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, bad_input
from PIL import Image
from test_training import EVERY_FEW, SHORT, same_bits, state

import models
from command import InputError
from dcgan_keras import LOSSES, OUTPUTS, SMOOTHING, article_losses, class_loss, gan, log_eps
from reproduce.benchmark import Fetches
from tf1 import keras, tf
from training import logs
from training.noise import feed_for


def ancestors(fetches):
    """Every operation that a `sess.run` of these fetches executes."""
    todo, seen = [getattr(fetch, "op", fetch) for fetch in tf.nest.flatten(fetches)], set()
    while todo:
        op = todo.pop()
        if op not in seen:
            seen.add(op)
            todo += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return seen


# The losses.


def test_log_eps_survives_zero(sess):
    assert sess.run(log_eps(tf.constant(0.0))) == pytest.approx(np.log(1e-11))


def test_losses_on_numbers_worked_out_by_hand(sess):
    dloss, gloss = sess.run(article_losses(tf.constant([[0.25], [0.5]]), tf.constant([[0.8], [0.5]])))
    by_hand = -(np.log(0.75) + np.log(0.5) + 0.1 * (np.log(0.2) + np.log(0.5)) + 0.9 * (np.log(0.8) + np.log(0.5))) / 2
    assert dloss == pytest.approx(by_hand)
    assert gloss == pytest.approx(-(np.log(0.25) + np.log(0.5)) / 2)


def test_smoothing_wants_a_score_of_nine_tenths_for_real_pictures(sess):
    scores = np.linspace(0.5, 0.99, 50)
    losses = [sess.run(article_losses(tf.constant([[0.5]]), tf.constant([[s]], tf.float32)))[0] for s in scores]
    assert scores[np.argmin(losses)] == pytest.approx(0.9)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_saturated_discriminator_gives_finite_losses_and_gradients(score, sess):
    gscore, rscore = tf.constant([[score]]), tf.constant([[1 - score]])
    losses = article_losses(gscore, rscore)
    gradients = [tf.gradients(losses[0], [gscore, rscore]), tf.gradients(losses[1], gscore)]
    assert np.isfinite(np.hstack([np.ravel(value) for value in tf.nest.flatten(sess.run([losses, gradients]))])).all()


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
    losses = sess.run(LOSSES[name](output_for(name, [0.25, 0.5]), output_for(name, [0.8, 0.5])))
    assert losses == pytest.approx(by_hand(name))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.3])
def test_smoothing_moves_the_best_score_of_real_pictures(name, smoothing, sess):
    scores = np.linspace(0.5, 0.999, 500, dtype=np.float32)
    generated = output_for(name, [0.5])
    rows = tf.map_fn(
        lambda score: LOSSES[name](generated, tf.reshape(score, (1, 1)), smoothing=smoothing)[0],
        tf.squeeze(output_for(name, scores), 1),
    )
    assert scores[np.argmin(sess.run(rows))] == pytest.approx(min(1 - smoothing, 0.999), abs=1e-3)


def test_losses_without_a_setting_have_the_smoothing_of_their_source(sess):
    for name, function in LOSSES.items():
        outputs = output_for(name, [0.3]), output_for(name, [0.6])
        by_default, explicit = sess.run([function(*outputs), function(*outputs, smoothing=SMOOTHING[name])])
        assert by_default == explicit


@pytest.mark.parametrize(
    ("name", "at_a_half"),
    [("minimax", (np.log(4), -np.log(2))), ("bce", (np.log(4), np.log(2))), ("lsgan", (0.25, 0.125))],
)
def test_at_the_fixed_point_discriminator_says_one_half_and_has_no_slope(name, at_a_half, sess):
    """Where generated pictures are as the real ones, both get the same score s. The best s is 1/2: -V is log 4 there
    (Goodfellow et al. 2014, theorem 1), LSGAN's loss is 1/4."""
    low, half, high = (output_for(name, [score]) for score in (0.4, 0.5, 0.6))
    slopes = [tf.gradients(LOSSES[name](output, output)[0], output)[0] for output in (low, half, high)]
    assert sess.run(LOSSES[name](half, half)) == pytest.approx(at_a_half)
    low, half, high = (slope.item() for slope in sess.run(slopes))
    assert half == pytest.approx(0, abs=1e-6) and low < 0 < high


def test_minimax_saturates_and_bce_does_not(sess):
    """Of a picture that D is sure of, G learns nothing by V and most by -log D (Goodfellow et al. 2014, section 3)."""
    logits = tf.constant([[-10.0]])
    slopes = [tf.gradients(LOSSES[name](logits, logits)[1], logits)[0] for name in ("minimax", "bce")]
    minimax, bce = (value.item() for value in sess.run(slopes))
    assert minimax == pytest.approx(-1 / (1 + np.exp(10)), rel=1e-3) and bce == pytest.approx(-1, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["minimax", "bce"])
def test_losses_from_logits_are_exact_however_sure_the_discriminator_is(name, sign, sess):
    """At +-200 a sigmoid in float32 is 0 or 1: a loss of scores would be infinite or cut off, its slope 0."""
    generated, real = tf.constant([[-200.0 * sign]]), tf.constant([[200.0 * sign]])
    dloss, gloss = LOSSES[name](generated, real)
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


def test_one_run_holds_each_forward_pass_once(graph):
    gan_feed = gan(models.article_generator(), models.article_discriminator())
    sess = Fetches()
    gan_feed(sess, None, None)
    ops = ancestors(sess.fetches)
    count = Counter(op.type for op in ops)
    assert count["Tanh"] == 1  # G's last layer: once, for both losses
    assert count["Sigmoid"] == 2  # D's: once over generated and once over real pictures
    assert sum("FusedBatchNorm" in op.type and "Grad" not in op.type for op in ops) == 4 + 2 * 3


@pytest.mark.parametrize(("batch_size", "kernels"), [(None, 0), (8, 3)])
def test_with_a_fixed_batch_size_what_d_learns_from_real_pictures_does_not_wait(batch_size, kernels, graph):
    """Else the shape of a score of real pictures is asked of the losses, and these need generated ones."""
    gan(models.article_generator(), models.article_discriminator(), batch_size=batch_size)
    gradients = [op for op in graph.get_operations() if op.type == "Conv2DBackpropFilter"]
    free = [op for op in gradients if not any(op.type == "Tanh" for op in ancestors(op))]
    assert len(free) == kernels


def test_a_pair_that_does_not_fit_is_refused_with_both_shapes(graph):
    generator = keras.Sequential([keras.layers.InputLayer((100,)), keras.layers.Dense(12)])
    with pytest.raises(InputError, match=r"\(12,\).*\(32, 32, 3\)"):
        gan(generator, models.article_discriminator())


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


def test_with_classes_the_passes_are_still_one_and_two(graph):
    gan_feed = gan(models.acgan_generator(), models.acgan_discriminator())
    sess = Fetches()
    gan_feed(sess, None, [None, None], np.zeros(4))
    count = Counter(op.type for op in ancestors(sess.fetches))
    assert count["Tanh"] == 1 and count["Sigmoid"] == 2
    assert count["SparseSoftmaxCrossEntropyWithLogits"] == 2


def test_class_losses_are_added_to_both_sides(sess):
    """With D's heads at their initial zeros all classes are as likely: each batch adds log(classes) to both losses."""
    generator, discriminator = models.acgan_generator(5), models.acgan_discriminator(5)
    for layer in (discriminator.get_layer("score"), discriminator.get_layer("classes")):
        layer.kernel_initializer = "zeros"
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    for layer in (discriminator.get_layer("score"), discriminator.get_layer("classes")):
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    noise = feed_for(generator, 0, 1, 4, 5)
    losses = gan_feed(sess, np.zeros((4, 28, 28, 1)), noise, np.array([0, 4, 2, 2]))
    assert losses == pytest.approx([np.log(4) + 2 * np.log(5), np.log(2) + 2 * np.log(5)])


def test_with_classes_every_moving_average_moves(sess):
    generator, discriminator = models.acgan_generator(), models.acgan_discriminator()
    gan_feed = gan(generator, discriminator)
    sess.run(tf.global_variables_initializer())
    averages = [weight for weight in generator.weights if "moving" in weight.name]
    before = sess.run(averages)
    gan_feed(sess, np.zeros((4, 28, 28, 1)), feed_for(generator, 0, 1, 4, 10), np.zeros(4))
    assert len(averages) == 4
    for old, new in zip(before, sess.run(averages), strict=True):
        assert (old != new).all()


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_means_of_the_scores_are_reported_when_asked_for(name, sess):
    generator, _ = small_pair()
    output = OUTPUTS[name]
    layers = keras.layers
    discriminator = keras.Sequential([layers.InputLayer((5,)), layers.Dense(1, activation=output.activation)])
    gan_feed = gan(generator, discriminator, LOSSES[name], learning_rate=1e-12, score=output.score)
    sess.run(tf.global_variables_initializer())
    kernel = discriminator.weights[0]
    kernel.load(np.full((5, 1), 0.2, np.float32), sess)
    images, noise = np.ones((2, 5)), np.zeros((2, 3))  # G makes 0 of 0
    assert len(gan_feed(sess, images, noise)) == 2
    scores = gan_feed(sess, images, noise, scores=True)[2:]
    expected = np.array([1, 0]) if name == "lsgan" else 1 / (1 + np.exp(-np.array([1, 0])))
    assert scores == pytest.approx(expected, abs=1e-5)


def test_in_turns_one_network_moves_per_step_and_the_passes_are_one_and_two(sess):
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

    class Step(Fetches):
        def run(self, fetches, feed_dict=None):
            return 0 if feed_dict is None else super().run(fetches, feed_dict)

    step = Step()
    gan_feed(step, None, None)
    count = Counter(op.type for op in ancestors(step.fetches))
    assert count["Sigmoid"] == 2 and count["Tanh"] == 1 + 2  # G's one, D's hidden layer twice


REPEAT = """
import hashlib, sys, numpy as np
import data
import models
from dcgan_keras import gan
from tf1 import session_config, set_seed, tf
set_seed(1)
feed = gan(models.article_generator(), models.article_discriminator(), batch_size=32)
rng = np.random.default_rng(0)
digest = hashlib.sha256()
with tf.Session(config=session_config()) as sess:
    sess.run(tf.global_variables_initializer())
    for _ in range(30):
        losses = feed(sess, rng.random((32, 32, 32, 3), np.float32) - 0.5, rng.standard_normal((32, 100), np.float32))
        digest.update(np.asarray(losses).tobytes())
    for value in sess.run(tf.global_variables()):
        digest.update(value.tobytes())
print(digest.hexdigest())
"""


def test_two_runs_are_equal_to_the_last_bit():
    runs = [
        subprocess.run([sys.executable, "-c", REPEAT], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert len(runs[0]) == 65
    assert runs[0] == runs[1]


# The command's settings.


@pytest.fixture
def pictures(tmp_path):
    """Arguments for a folder of seven pictures, without classes, in batches of two: three steps are an epoch."""
    (tmp_path / "pictures").mkdir()
    for i in range(7):
        Image.new("RGB", (32, 32), (30 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    return ("--dataset", "folder", "--data-dir", "pictures", "--batch-size", 2)


def test_epochs_are_counted_in_full_batches(dcgan, pictures, tmp_path):
    dcgan(*pictures, "--model", "tiny", "--out", "run", "--epochs", 3)
    out = tmp_path / "run"
    losses = np.array([row[1:] for row in logs.read_losses(out / "losses.csv")])
    assert len(losses) == 9
    lines = (out / "epochs.csv").read_text().splitlines()
    assert lines[0] == "epoch,dloss,gloss"
    rows = np.array([[float(field) for field in line.split(",")] for line in lines[1:]])
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3])
    np.testing.assert_allclose(rows[:, 1:], losses.reshape(3, 3, 2).mean(axis=1), rtol=1e-7)


def test_epochs_resume_exactly(dcgan, pictures, tmp_path):
    run = (*pictures, "--model", "tiny", "--checkpoint-every", "1epoch")
    dcgan(*run, "--out", "whole", "--epochs", 3, "--sample-every", "2epochs")
    dcgan(*run, "--out", "parts", "--steps", 4)
    dcgan(*run, "--out", "parts", "--epochs", 3)
    whole, parts = ((tmp_path / out / "epochs.csv").read_bytes() for out in ("whole", "parts"))
    assert whole == parts
    assert {p.name for p in (tmp_path / "whole").glob("step_*")} == {f"step_00000{n}.png" for n in (0, 6, 9)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", 3, "--epochs", 1), "not allowed with"),
        (("--sample-every", "25days"), "25epochs"),
        (("--keep-every", "0epochs"), "below 1"),
        (("--loss", "wgan"), "lsgan"),
        (("--beta1", "nan"), "nan"),
        (("--learning-rate", "0"), "0"),
    ],
)
def test_settings_that_do_not_do(arguments, words, dcgan):
    assert words in bad_input(dcgan(*SHORT, *arguments))


@pytest.mark.parametrize(
    "setting", [("--loss", "bce"), ("--updates", "alternating"), ("--learning-rate", "0.001"), ("--beta1", "0.9")]
)
def test_a_run_goes_on_with_its_own_settings_only(setting, dcgan, tmp_path):
    assert dcgan(*SHORT, "--steps", 2).returncode == 0
    before = (tmp_path / "run" / "losses.csv").read_bytes()
    assert setting[1] in bad_input(dcgan(*SHORT, "--steps", 4, *setting))
    assert (tmp_path / "run" / "losses.csv").read_bytes() == before


def test_summary_counts_parameters_and_trains_nothing(dcgan, tmp_path):
    result = dcgan("--summary", "--model", "dcgan64")
    assert result.returncode == 0
    assert "12664195" in result.stdout.replace(",", "") and "11041665" in result.stdout.replace(",", "")
    assert list(tmp_path.iterdir()) == []


def test_acgan_needs_classes(dcgan, pictures):
    assert "subfolder" in bad_input(dcgan(*pictures, "--model", "acgan32"))


def test_a_run_with_dropout_and_classes_resumes_to_the_last_bit(dcgan, tmp_path):
    run = ("--dataset", "faces", "--model", "acgan32", "--batch-size", 2, *EVERY_FEW)
    assert dcgan(*run, "--out", "whole", "--steps", 4).returncode == 0
    for steps in (2, 4):
        assert dcgan(*run, "--out", "parts", "--steps", steps).returncode == 0
    same_bits(state(tmp_path / "parts", 4), state(tmp_path / "whole", 4))
    with Image.open(tmp_path / "whole" / "step_000004.png") as grid:
        assert grid.height == 2 * (10 * 33 - 1)  # a row for each of the ten classes
        assert grid.width > 2 * (8 * 33 - 1)  # and its name


# The command.


def test_models_are_built_in_a_session_with_the_projects_settings(dcgan, monkeypatch):
    """The first session of a process sets up its devices, so it must not be one that Keras opens by itself."""
    tiny, seen = models.MODELS["tiny"], []

    def generator():
        seen.append(keras.backend.get_session()._config.gpu_options.allow_growth)
        raise InputError("this is far enough")

    monkeypatch.setitem(models.MODELS, "tiny", tiny._replace(generator=generator))
    result = dcgan("--model", "tiny", "--dataset", "faces")
    assert result.returncode == 2
    assert seen == [True]
