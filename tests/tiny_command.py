"""`python dcgan_keras.py` with two tiny pairs among its models and 1,000 faces: a process that does all but take its
time."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import plain_pair, tiny_pair

import command
import dcgan_keras
import models
from sources import faces
from training import settings

settings.MODELS += ("tiny", "plain")
models.MODELS["tiny"] = models.MODELS["article"]._replace(**tiny_pair())
models.MODELS["plain"] = models.MODELS["article"]._replace(**plain_pair())
faces.load = functools.partial(faces.load, count=1000)

if __name__ == "__main__":
    command.run(dcgan_keras.main)
