"""What the slow tier leaves out, so that it ends in half an hour: cases beside which others of their kind are in it."""

import os

import pytest

WHOLE = os.environ.get("MNIST_MINIMAL_WHOLE") == "1"

# Faults are caused at every STRIDE-th step of a job.
STRIDE = 1 if WHOLE else 9

# For a case that is in the whole slow tier alone.
whole_only = pytest.mark.skipif(not WHOLE, reason="with MNIST_MINIMAL_WHOLE=1")
