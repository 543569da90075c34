import numpy as np
import pytest
from broken import SHORT_AND_LONG, fuzz, mutations
from conftest import bad_input
from hypothesis import strategies as st
from test_survival import step_of
from test_training import ARTICLE, SHORT, same_bits, state

import checkpoints
import command
import files
import models
from tf1 import tf


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


def test_weights_that_are_no_numbers_are_not_saved(graph, tmp_path, sess):
    variable = tf.get_variable("weight", initializer=np.float32([1, np.inf]))
    sess.run(variable.initializer)
    with pytest.raises(command.RunError):
        checkpoints.save_checkpoint(tmp_path, sess, 5, {})
    assert not list(tmp_path.iterdir())


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
    assert result.returncode == 0 and "going on from step 4" in result.stdout
    assert result.stderr.count("\n") == 1 and "checkpoint_000008.h5 is damaged" in result.stderr
    same_bits(state(tmp_path / "run", 8), whole)


def test_weights_files_load_with_keras(dcgan, tmp_path, graph):
    dcgan(*ARTICLE, "--steps", 2)
    for name, network in (("generator", models.article_generator()), ("discriminator", models.article_discriminator())):
        before = network.get_weights()
        network.load_weights(tmp_path / "run" / f"{name}.h5")
        assert all((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))
