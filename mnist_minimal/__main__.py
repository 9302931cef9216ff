"""`python -m mnist_minimal COMMAND ...`, the same as the console script."""

from mnist_minimal.cli.main import console_script

if __name__ == "__main__":
    raise SystemExit(console_script())
