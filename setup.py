r"""The one C++ extension: the training core. Everything else is in setup.cfg.

The kernels are compiled once for each instruction set and chosen when the program runs, so that a build on one machine
runs on another, and no flag asks for the machine's own processor. Flags:

    -O3                  the kernels rely on unrolling and on inlining
    -ffp-contract=off    a * b + c becomes one instruction only where a kernel says so, so that results do not depend on
                         the instruction set
    -fno-fast-math       a user's CFLAGS may ask for -ffast-math, which reorders sums and assumes that there is no NaN
    -fno-wrapv           Python's own flags have -fwrapv, which keeps GCC from vectorising loops over a[2 * i]
    -fvisibility=hidden  as pybind11 wants it

Environment variables, all unset as a rule:

    MNIST_MINIMAL_REQUIRE_CORE=1  the installation fails where the extension cannot be built; otherwise it goes on
                                  without, and the Keras trainer serves
    MNIST_MINIMAL_WITHOUT_CORE=1  the extension is not built, and the wheel is pure Python (py3-none-any). It is so on
                                  Windows too, whose own compiler lacks the vector types of vector.h. Where the core
                                  is required, this has no effect
    MNIST_MINIMAL_SANITIZE=1      builds with AddressSanitizer and UndefinedBehaviorSanitizer. To run the tests so:
                                  MNIST_MINIMAL_SANITIZE=1 python setup.py build_ext --inplace --force
                                  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
                                      ASAN_OPTIONS=detect_leaks=0 python -m pytest tests/training/test_core.py \
                                      tests/training/test_core_arguments.py tests/training/test_reference.py \
                                      tests/training/test_random_networks.py tests/training/test_core_augmentation.py
                                  in a clone of its own: what it builds takes the place of the fast extension
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FOLDER = Path("mnist_minimal", "training", "core")

INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
}

FLAGS = [
    *("-std=c++17", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-wrapv"),
    *("-fvisibility=hidden", "-Wall", "-Wextra"),
]


class BuildCore(build_ext):
    """Builds the extension, or says why not; setuptools then goes on without it, where the extension is optional."""

    def build_extension(self, extension):
        """Compiles the kernels once for each instruction set, and the rest, on all processors, and links them."""
        import pybind11  # A wheel without the core needs none.

        include = [*extension.include_dirs, pybind11.get_include()]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        flags = [*FLAGS, *(["-DMNIST_MINIMAL_X86"] if x86 else [])]
        if os.environ.get("MNIST_MINIMAL_SANITIZE") == "1":
            sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
            flags += [*sanitizers, "-g", "-fno-omit-frame-pointer", "-O1"]
            extension.extra_link_args += sanitizers

        def compiled(source, name=None):
            return self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp, name or "")),
                macros=[("MNIST_MINIMAL_SIMD_NAMESPACE", name)] if name else None,
                include_dirs=include,
                extra_postargs=[*flags, *INSTRUCTION_SETS.get(name, [])],
            )

        kernels = [(str(FOLDER / "layers.cpp"), name) for name in (INSTRUCTION_SETS if x86 else ["baseline"])]
        try:
            # The kernels take longest, so they come first.
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                work = [
                    pool.submit(compiled, *each) for each in (*kernels, *((source,) for source in extension.sources))
                ]
                extension.extra_objects += chain.from_iterable(each.result() for each in work)
            extension.depends, extension.sources = extension.depends + extension.sources, []
            super().build_extension(extension)
        except CompileError as error:
            print(
                f"\nThe C++ training core was not built: {error}\nTraining will use Keras. To have the core, install "
                "a C++17 compiler (g++ or clang++) and install mnist_minimal again.\n",
                file=sys.stderr,
            )
            raise


REQUIRED = os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") == "1"
WITHOUT = not REQUIRED and (os.environ.get("MNIST_MINIMAL_WITHOUT_CORE") == "1" or sys.platform == "win32")

CORE = Extension(
    "mnist_minimal.training.core._core",
    sources=[
        str(FOLDER / name)
        for name in ("augmentation.cpp", "binding.cpp", "network.cpp", "optimizer.cpp", "reference.cpp")
    ],
    depends=[str(path) for path in sorted(FOLDER.rglob("*.h"))] + [str(FOLDER / "layers.cpp")],
    language="c++",
    extra_link_args=["-pthread"],
    optional=not REQUIRED,
)

setup(ext_modules=[] if WITHOUT else [CORE], cmdclass={"build_ext": BuildCore})
