import shutil

import numpy as np
import pytest
from broken import SHORT_AND_LONG, fuzz, mutations
from conftest import bad_input
from hypothesis import strategies as st
from test_survival import step_of
from test_training import ARTICLE, SHORT, same_bits, state

import command
import data
import models
from tf1 import tf
from training import checkpoints
from training import folder as files


@pytest.fixture
def two_checkpoints(tmp_path, sess):
    """Checkpoints of steps 1 and 2, whose one variable is filled with the step; gives the variable."""
    variable = tf.get_variable("weight", initializer=np.zeros(1000, np.float32))
    for step in (1, 2):
        variable.load(np.full(1000, step, np.float32), sess)
        checkpoints.save_checkpoint(tmp_path, sess, step, {"seed": 0})
    return variable


def test_a_checkpoint_of_another_program_is_refused_in_one_line(two_checkpoints, tmp_path, sess):
    tf.get_variable("new", initializer=np.float32(0))
    with pytest.raises(command.InputError, match=r"checkpoint_000002\.h5 has other variables .*--restart"):
        checkpoints.restore(sess, tmp_path, {"seed": 0})


@pytest.mark.parametrize("damage", [b"", b"\0", b"no HDF5" * 1000, None])
def test_where_every_checkpoint_is_damaged_a_run_does_not_begin_anew_by_itself(damage, two_checkpoints, tmp_path, sess):
    for path in files.checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(command.InputError, match=r"every checkpoint .* is damaged: --restart"):
        checkpoints.restore(sess, tmp_path, {"seed": 0})


def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_good_ones(two_checkpoints, tmp_path, sess):
    (tmp_path / "checkpoint_000009.h5").write_bytes(b"damaged")
    assert checkpoints.restore(sess, tmp_path, {"seed": 0}) == 2
    checkpoints.save_checkpoint(tmp_path, sess, 3, {"seed": 0})
    assert [step_of([path]) for path in files.checkpoints(tmp_path)] == [2, 3]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_checkpoints(examples, two_checkpoints, tmp_path, sess, capsys):
    newest = tmp_path / "checkpoint_000002.h5"
    good = newest.read_bytes()

    def read(content):
        newest.write_bytes(content)
        step = checkpoints.restore(sess, tmp_path, {"seed": 0})
        assert step == (2 if content == good else 1)
        assert (sess.run(two_checkpoints) == step).all()
        assert ("is damaged" in capsys.readouterr().err) == (step == 1)

    fuzz(read, mutations(good) | st.binary(), examples)


def test_another_dataset_of_the_same_size_is_refused(dcgan, tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(256, size=(12, 32, 32, 3), dtype=np.uint8)
    given = data.Dataset("these", pictures, np.arange(12) % 2, ["cat", "dog"])
    monkeypatch.setattr(data, "load", lambda *_, **__: given)
    run = (*SHORT, "--dataset", "folder", "--steps")
    assert dcgan(*run, 2).returncode == 0
    given = given._replace(classes=["cat", "horse"])
    assert "was made with classes cat, dog, not cat, horse" in bad_input(dcgan(*run, 4))
    given = given._replace(classes=["cat", "dog"], images=pictures[::-1])
    assert "was made with checksum" in bad_input(dcgan(*run, 4))
    given = given._replace(images=pictures)
    assert "resuming from step 2" in dcgan(*run, 4).stdout


def test_a_checkpoint_of_the_version_before_resumes(two_checkpoints, tmp_path, sess):
    """It names neither smoothing nor size, checksum and classes."""
    saved = {"seed": 0, "loss": "article"}
    checkpoints.save_checkpoint(tmp_path, sess, 3, saved)
    now = {**saved, "smoothing": 0.1, "size": 32, "checksum": "0badcafe", "classes": ["cat"]}
    assert checkpoints.restore(sess, tmp_path, now) == 3
    with pytest.raises(command.InputError, match=r"smoothing 0\.1, not 0\.01"):
        checkpoints.restore(sess, tmp_path, {**now, "smoothing": 0.01})


def test_go_back_makes_a_run_that_ends_with_the_same_bits(dcgan, tmp_path):
    run = (*SHORT, "--keep-every", "4", "--keep-checkpoints", "--steps", "9")
    dcgan(*run)
    out, later = tmp_path / "run", tmp_path / "run.1"
    names = ("checkpoint_000009.h5", "losses.csv", "step_000009.png", "generator.h5", "state_000008.h5")
    first = {name: (out / name).read_bytes() for name in names}
    result = dcgan(*run, "--from-step", "4")
    assert result.returncode == 0 and "resuming from step 4" in result.stdout and "is in run.1 now" in result.stdout
    assert {name: (later / name).read_bytes() for name in names} == first
    assert {name: (out / name).read_bytes() for name in names} == first
    message = bad_input(dcgan(*run, "--from-step", "5"))
    assert "no state of step 5" in message and "it has 4, 8, 9" in message
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["run", "run.1"]


def test_start_from_begins_with_the_weights_of_another_run_and_a_new_optimizer(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 3, "--out", "first")
    result = dcgan(*SHORT, "--steps", 1, "--seed", 7, "--start-from", "first", "--learning-rate", "1e-12")
    assert result.returncode == 0
    first, now = state(tmp_path / "first", 3), state(tmp_path / "run", 1)
    kernels = [name for name in first if name.endswith("kernel")]
    assert len(kernels) == 3
    for name in kernels:
        np.testing.assert_allclose(now[name], first[name], atol=1e-9)
    assert now["beta2_power"] > first["beta2_power"]  # Adam's powers begin anew
    (tmp_path / "first" / "generator.h5").write_bytes((tmp_path / "first" / "discriminator.h5").read_bytes())
    message = bad_input(dcgan(*SHORT, "--steps", 1, "--out", "other", "--start-from", "first"))
    assert "first/generator.h5 does not have the weights of this model's generator" in message
    assert "nowhere" in bad_input(dcgan(*SHORT, "--steps", 1, "--out", "other", "--start-from", "nowhere"))
    assert not (tmp_path / "other").exists()


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(dcgan, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=500_000))
    message = bad_input(dcgan(*SHORT, "--steps", 2))
    assert "GiB free" in message and "--out" in message
    assert not list((tmp_path / "run").glob("*.png"))


def test_run_json_says_what_the_run_is_and_how_far(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    run = checkpoints.read_run(tmp_path / "run")
    expected = {"model": "tiny", "size": 32, "dataset": "faces", "loss": "article", "smoothing": 0.1, "seed": 0}
    expected |= {"recipe": "one-pass", "updates": "simultaneous", "learning_rate": 1e-4, "beta1": 0.2, "devices": 1}
    expected |= {"pixels": [-0.5, 0.5], "batch_size": 4, "pictures": 10_000, "step": 2, "steps": 2}
    assert {name: run[name] for name in expected} == expected
    assert run["classes"][0] == "circle" and len(run["checksum"]) == 8 and "CPU" in run["device"]
    assert run["versions"]["tensorflow"] == tf.__version__


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_one_line(content, tmp_path):
    assert checkpoints.read_run(tmp_path) is None
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(command.InputError, match=r"run\.json"):
        checkpoints.read_run(tmp_path)


@pytest.mark.parametrize("change", [("--batch-size", "5"), ("--seed", "3")])
def test_a_checkpoint_of_another_run_is_refused(change, dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    message = bad_input(dcgan(*SHORT, *change, "--steps", 4))
    assert change[0].strip("-").replace("-", " ") in message and change[1] in message and "--restart" in message
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 8)
    whole = state(tmp_path / "run", 8)
    newest = tmp_path / "run" / "checkpoint_000008.h5"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    result = dcgan(*SHORT, "--steps", 8)
    assert result.returncode == 0 and "resuming from step 4" in result.stdout
    assert result.stderr.count("\n") == 1 and "checkpoint_000008.h5 is damaged" in result.stderr
    same_bits(state(tmp_path / "run", 8), whole)


def test_weights_files_load_with_keras(dcgan, tmp_path, graph):
    dcgan(*ARTICLE, "--steps", 2)
    for name, network in (("generator", models.article_generator()), ("discriminator", models.article_discriminator())):
        before = network.get_weights()
        network.load_weights(tmp_path / "run" / f"{name}.h5")
        assert all((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))
