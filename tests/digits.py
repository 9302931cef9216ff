"""Loads the digits, so that each process forked off one that has imported this has them (`tests.jobs`)."""

from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import load

load(Choice("digits"))
