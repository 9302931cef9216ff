"""Which code this is, as rows, checkpoints and pages tell."""

import functools
from importlib import metadata
from pathlib import Path


@functools.cache
def version() -> str:
    """The version by setuptools-scm: of a checkout that of its last commit and of changes since, as "0.1.1.dev9+g1a2b".

    An installation keeps the version that it was built from; an editable one is a checkout, whose code may be newer.
    """
    checkout = Path(__file__).parents[1]
    if (checkout / ".git").exists():
        from setuptools_scm import Configuration, get_version

        try:
            # As the build has it: else an installation of this commit would have another version than its checkout.
            built = Configuration.from_file(str(checkout / "pyproject.toml"))
            return get_version(root=str(checkout), fallback_version=built.fallback_version)
        except (LookupError, OSError):  # There is no git here to ask.
            pass
    return metadata.version("mnist_minimal")
