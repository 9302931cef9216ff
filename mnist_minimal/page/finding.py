"""The picture of the finding, for wide screens and for narrow ones, as PNGs that the page holds."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mnist_minimal.analysis.frontier import Counting

# The widths of the page's column and of a phone's, in CSS pixels, of which there are 96 in an inch.
WIDE, NARROW, PER_INCH = 960, 358, 96

# Heights of each part of the picture, in inches, and dots per inch: enough for screens of two dots a CSS pixel.
HEIGHT, DPI = 4.4, 2 * PER_INCH

# A PNG of more colours is larger and looks the same.
COLOURS = 64


@dataclass(frozen=True)
class Picture:
    """A PNG on nothing, dark on light, in base64, and its size in CSS pixels."""

    png: str
    width: int
    height: int


def pictures(finding: Sequence[Counting]) -> tuple[Picture, Picture]:
    """Parameters against accuracy by each way of counting: the picture for a wide screen, and that for a narrow one."""
    return _picture(finding, WIDE), _picture(finding, NARROW)


def _picture(finding: Sequence[Counting], width: int) -> Picture:
    import matplotlib
    from PIL import Image

    from mnist_minimal.analysis import figures

    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.size": 8.5 if width == NARROW else 10}):
        figure = figures.frontiers(finding, width / PER_INCH, HEIGHT)
        figure.savefig(buffer, format="png", dpi=DPI, transparent=True)
    image = Image.open(buffer).quantize(COLOURS, Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    height = round(image.height * PER_INCH / DPI)
    return Picture(base64.b64encode(buffer.getvalue()).decode(), width, height)
