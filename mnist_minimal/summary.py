"""A model's layers: output shapes, parameters, multiply-accumulates, receptive fields; and what has to be stored."""

import argparse
import os
from collections.abc import Sequence

from mnist_minimal.analysis.published import RECEPTIVE_FIELDS
from mnist_minimal.analysis.tables import layer_lines
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.errors import UserError
from mnist_minimal.models.counting import layer_table
from mnist_minimal.models.lookup import OWN, OWN_FORM, builder


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "summary")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "what",
        nargs="?",
        type=os.path.expanduser,
        metavar="MODEL_OR_FILE",
        help="a model's name, as sep997, or a saved model",
    )
    what.add_argument("--model", metavar="MODEL", help=f"a model's name, or {OWN_FORM}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = parse(arguments)
    from mnist_minimal.models import MODELS
    from mnist_minimal.models.storage import WIDTHS, stored
    from mnist_minimal.saving.saved_model import load

    name = options.what if options.model is None else options.model
    if options.model is not None or name in MODELS or OWN.fullmatch(name):
        model = builder(name, to_train=False)()
    else:
        if not os.path.exists(name):
            raise UserError(
                f"{name}: found no file of this name, expected one of a model, or a model's name; the models with "
                f"names are {', '.join(MODELS)}"
            )
        model = load(name)
    shape = " x ".join(map(str, model.inputs[0].shape[1:]))
    print(f"{model.name}: one image's way from the pixels, {shape}, to the output")
    print(layer_lines(layer_table(model), terminal_width()))
    storage = stored(model)
    print(f"To run it {storage.numbers:,} numbers have to be stored, batch normalisations folded in where they can be.")
    print(f"Bytes: {', '.join(f'{storage.bytes(bits):,} in {bits} bits' for bits in WIDTHS)}.")
    if model.name in RECEPTIVE_FIELDS:
        fields = ", ".join(map(str, RECEPTIVE_FIELDS[model.name]))
        print(f"Its source prints other receptive fields after the convolutions and the pool: {fields}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
