"""What the models learn of real images, by a classifier that never saw a generated one: minutes to an hour each."""

import csv
import functools

import pytest

import dcgan_keras
from reproduce import evaluate

pytestmark = pytest.mark.long


@pytest.fixture
def measured(run_here, tmp_path):
    """Train by the command and measure 1,000 samples: a row of the table of reproduce.evaluate."""

    def train(data, *options):
        assert run_here(dcgan_keras.main, *data, *options, "--out", "run").returncode == 0
        weights = ("--weights", "run/generator.h5", "--samples", 1000, "--out", "quality.csv")
        assert run_here(evaluate.main, *data, *weights).returncode == 0
        with open(tmp_path / "quality.csv", newline="") as file:
            _, row = csv.DictReader(file)
        print(row)
        return row

    return train


@pytest.fixture
def learned(measured, real_data):
    return functools.partial(measured, ("--dataset", "mnist", "--data-dir", real_data))


def test_faces_of_all_kinds_are_drawn_in_the_readmes_time(measured):
    row = measured(("--dataset", "faces"), "--learning-rate", 1e-3, "--steps", 3000)
    assert float(row["rarest"]) >= 0.03  # of ten kinds of hair and headgear
    assert float(row["variety"]) > 0.8


def test_mnist_makes_all_digits(learned):
    row = learned("--steps", 1500)
    assert float(row["rarest"]) >= 0.03
    assert float(row["variety"]) > 0.8


def test_without_minibatch_discrimination_the_same_network_collapses(learned):
    row = learned("--model", "mnist-plain", "--steps", 1500)
    assert float(row["rarest"]) < 0.03 and float(row["variety"]) < 0.8


def test_acgan_makes_the_digit_that_is_asked_for_and_makes_it_in_many_ways(learned):
    row = learned("--model", "acgan28", "--steps", 2000)
    assert float(row["asked"]) >= 0.97
    assert float(row["variety"]) >= 0.8  # within the class where it is least


def test_acgan_draws_the_face_that_is_asked_for_and_draws_it_in_many_ways(measured):
    row = measured(("--dataset", "faces"), "--model", "acgan32", "--steps", 3000)
    assert float(row["asked"]) >= 0.9
    assert float(row["variety"]) >= 0.6  # within the class where it is least


def test_the_same_networks_draw_the_digit_that_is_asked_for(learned):
    row = learned("--model", "acgan32", "--grey", "--steps", 3000)
    assert float(row["asked"]) >= 0.95
    assert float(row["variety"]) >= 0.7
