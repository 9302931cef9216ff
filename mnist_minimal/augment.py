"""Draw a training image of each class, and what becomes of it in some epochs of a recipe's augmentation."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal import files
from mnist_minimal.analysis.figures import augmentation_grid
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments, model_name
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import OWN_FORM, file_name, recipe
from mnist_minimal.recipes import PUBLISHED_RECIPES

# Epochs that the picture shows, and the last that it may begin with.
EPOCHS_SHOWN = 8
MAX_EPOCH = 10**9


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "augment")
    parser.add_argument("model", type=model_name, metavar="MODEL", help=f"a model whose recipe augments, or {OWN_FORM}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trial (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=1, help="first epoch shown, counted from 1 (default: %(default)s)")
    parser.add_argument(
        "--out", type=expanded_path, metavar="FILE.png", help="the picture (default: MODEL-augmented.png)"
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    augmentation = recipe(options.model).augmentation
    if augmentation is None:
        others = ", ".join(name for name, other in PUBLISHED_RECIPES.items() if other.augmentation) or "none"
        raise UserError(
            f"expected a model whose recipe augments its images, found {options.model}, whose recipe does not; "
            f"those that do: {others}"
        )
    if not 0 <= options.seed < 2**64 or not 1 <= options.epoch <= MAX_EPOCH:
        raise UserError(
            f"expected a seed from 0 to 2**64 - 1 and an epoch from 1 to {MAX_EPOCH}, found {options.seed} and "
            f"{options.epoch}"
        )
    path = files.check_output(options.out or Path(f"{file_name(options.model)}-augmented.png"), files.PICTURE)
    from mnist_minimal.analysis.figures import save_figure
    from mnist_minimal.data import sets

    dataset = sets.load(from_arguments(options))
    if dataset.notice:
        print(dataset.notice, file=sys.stderr)
    epochs = range(options.epoch - 1, options.epoch - 1 + EPOCHS_SHOWN)
    print(save_figure(augmentation_grid(dataset.x_train, dataset.y_train, augmentation, options.seed, epochs), path))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
