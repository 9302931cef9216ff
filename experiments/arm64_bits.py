"""Whether arm64 gives the bits of x86-64: trials under qemu, the same trials here, and the pinned hashes.

    python -m experiments.arm64_bits            (in the folder of the repository)

It takes about five CPU minutes. It needs Debian, or a system like it, with qemu-user-static and g++-aarch64-linux-gnu,
but no right of root and no MNIST. Into a temporary folder, which is removed in the end, it unpacks Debian's Python for
arm64 and installs NumPy from PyPI for it. That Python, which qemu runs, builds the core by `setup.py` with the cross
compiler, and trains the cases of `experiments/bits.py` on few images: the ten models by their own recipes and the odd
chains, with augmentation, two epochs each. What NumPy computes for a trial is compared too.

Expected: one hash in every row. The cases' own initial weights and learning rates are made here, as they need a Keras
model; the distributions and the cosine that they are made of are compared.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.bit_cases import odd_cases, published_cases
from experiments.bits import PINNED_FEW, found
from experiments.core_builds import build, digests
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.errors import UserError
from mnist_minimal.training.core import known_answer

PYTHON = "3.11"

DEBIAN = "deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} bookworm main\n"
MIRROR = "http://deb.debian.org/debian"

# Python, its headers, and what it and NumPy load.
PACKAGES = [
    *(f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"libpython{PYTHON}-dev"),
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5"),
]

# Settings of apt that leave the system's own alone.
APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "{0}/state";
Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "-";
"""

QEMU, COMPILER = "qemu-aarch64-static", "aarch64-linux-gnu-g++"


def quietly(*command: str | Path, folder: Path | None = None, **environment: str) -> None:
    """Runs a command whose output only matters if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError(f"expected the command {command[0]}, found none; install it") from None
    if done.returncode:
        raise UserError(f"{command[0]} failed; it wrote:\n{done.stdout}{done.stderr}")


def unpack_python(folder: Path) -> tuple[list[str], Path]:
    """Unpacks Python for arm64 and installs NumPy for it.

    Returns:
        The command that runs it, and its folder of packages.
    """
    apt, root, packages = folder / "apt", folder / "root", folder / "packages"
    for needed in (apt / "state/lists/partial", apt / "cache/archives/partial", root):
        needed.mkdir(parents=True)
    (apt / "state/status").touch()
    (apt / "sources.list").write_text(DEBIAN.format(MIRROR))
    (apt / "apt.conf").write_text(APT.format(apt))
    quietly("apt-get", "update", APT_CONFIG=str(apt / "apt.conf"))
    quietly("apt-get", "download", *PACKAGES, folder=apt, APT_CONFIG=str(apt / "apt.conf"))
    for package in sorted(apt.glob("*.deb")):
        quietly("dpkg", "-x", package, root)
    wheels = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    installed = ("numpy", "pybind11", "setuptools")
    options = ("--only-binary=:all:", *wheels, f"--python-version={PYTHON}")
    quietly(sys.executable, "-m", "pip", "install", "--target", packages, *options, *installed)
    return [QEMU, "-L", str(root), str(root / f"usr/bin/python{PYTHON}")], packages


def on_arm64(folder: Path, cases: dict) -> dict[str, dict[str, str]]:
    """What `bits.found` gives there."""
    python, packages = unpack_python(folder)
    headers = folder / "root/usr/include"
    environment = {
        "CC": "aarch64-linux-gnu-gcc",
        "CXX": f"{COMPILER} -I{headers}/python{PYTHON} -I{headers}",
        **dict.fromkeys(("LDSHARED", "LDCXXSHARED"), f"{COMPILER} -shared"),
        "PYTHONPATH": str(packages),
    }
    # Qemu hands on to the machine itself what this Python starts, such as the cross compiler.
    build(folder / "build", environment, python)
    return digests(folder / "build", cases, python, [packages])


def main() -> int:
    """Prints the table; the status is 1 where hashes differ."""
    cases = {name: case.few() for name, case in {**published_cases(), **odd_cases()}.items()}
    with tempfile.TemporaryDirectory() as folder:
        there = on_arm64(Path(folder), cases)
    here = found(cases)
    of_numpy, of_numpy_there = here.pop("NumPy"), there.pop("NumPy")
    expected = {"known answer": known_answer.EXPECTED[:16], **PINNED_FEW}
    columns = {**{f"{platform.machine()} {name}": row for name, row in here.items()}, "arm64": there["baseline"]}
    rows = [[name, digest, *(row[name] for row in columns.values())] for name, digest in expected.items()]
    print(markdown([["weights, statistics, probabilities", "pinned", *columns], *rows]), end="\n\n")
    drawn = [[name, digest, of_numpy_there[name]] for name, digest in of_numpy.items()]
    print(markdown([["of NumPy", platform.machine(), "arm64"], *drawn]))
    return int(any(len(set(row[1:])) > 1 for row in [*rows, *drawn]))


if __name__ == "__main__":
    raise SystemExit(main())
