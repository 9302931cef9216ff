"""`python -m mnist_minimal.models`."""

from mnist_minimal.command_line import run
from mnist_minimal.listing import main

raise SystemExit(run(main))
