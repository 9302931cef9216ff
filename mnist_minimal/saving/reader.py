"""The side of the process that asks: starts the child that opens files, hands it bytes, checks what comes back."""

import atexit
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_minimal.errors import UserError, plain
from mnist_minimal.saving import child

# Of a file; what the child may need for one of these is within its limits.
MAX_FILE_BYTES = child.MAX_ARRAYS_BYTES

# The child ends itself by processor time; this is for one that waits, or a system that does not count.
SECONDS = 120

Groups = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Contents:
    """What there is in a file that may hold a model.

    Attributes:
        container: "hdf5", or "zip" for a `.keras` file.
        config: The model's description as Keras wrote it, or None.
        metadata: What `metadata.json` of a `.keras` file says, or None.
        groups: By path, "" for the root: the attributes of every HDF5 group that say what a model is, in the file's
            order. Texts and lists of texts, `nb_layers` and `nb_params` are numbers.
        arrays: float32, finite, by path.
    """

    container: str
    config: Any
    metadata: Any
    groups: Groups
    arrays: dict[str, np.ndarray]


class Reader:
    """One child process, started when it is first needed and again after a file that it did not survive."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._warned = False

    def read(self, data: bytes) -> Contents:
        """What there is in the bytes of an HDF5 file or a zip archive, of at most MAX_FILE_BYTES.

        Raises:
            UserError: if they are refused: damaged, not what Keras writes, or in need of more than the limits.
        """
        with self._lock:
            process = self._started()
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            try:
                return self._answer(process, data)
            except _RefusedError:
                raise
            except (EOFError, OSError) as error:
                process.kill()
                status = process.wait()
                self._close(process)
                late = not timer.is_alive() or status == -getattr(signal, "SIGXCPU", 0)
                what = "takes too long to read" if late else "ends the HDF5 library"
                raise UserError(child.unreadable(f"a file that {what}")) from error
            except BaseException:
                # The answer was not read to its end, or is not one: the next one could not be told from it.
                process.kill()
                process.wait()
                self._close(process)
                raise
            finally:
                timer.cancel()

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._close(self._process)

    def _started(self) -> "subprocess.Popen[bytes]":
        """The child; a process that was forked has none yet."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        folders = {str(Path(_origin(package)).parent.parent) for package in ("h5py", "numpy")}
        environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", child.__file__, *sorted(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._owner = os.getpid()
        assert self._process.stdout is not None
        limited = self._process.stdout.read(1)
        if limited not in (b"0", b"1"):
            status = self._process.wait()
            self._close(self._process)
            raise UserError(f"the process that reads models did not start (status {status}); is h5py installed?")
        if limited == b"0" and not self._warned:
            warnings.warn(
                "this system can't limit the memory of a process; open only files of models that you trust",
                RuntimeWarning,
                stacklevel=2,
            )
            self._warned = True
        return self._process

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        """Lets a child end, and waits for it."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
        self._process = None

    def _answer(self, process: "subprocess.Popen[bytes]", data: bytes) -> Contents:
        """The child's answer to a file, with everything in it checked."""
        assert process.stdin is not None
        process.stdin.write(len(data).to_bytes(8, "big"))
        process.stdin.write(data)
        process.stdin.flush()
        kind, payload = _frame(process, child.MAX_TEXT_BYTES * 4)
        if kind == b"E":
            raise _RefusedError(payload)
        head = json.loads(payload)
        arrays: dict[str, np.ndarray] = {}
        strange = ""
        for path, shape in head["arrays"]:
            kind, payload = _frame(process, child.MAX_ARRAYS_BYTES)
            if kind == b"E":
                raise _RefusedError(payload)
            if len(payload) != 4 * math.prod(shape):
                raise EOFError("an array of another size")
            arrays[path] = np.frombuffer(payload, "<f4").reshape(shape)
            strange = strange or ("" if np.isfinite(arrays[path]).all() else path)
        if _frame(process, 0)[0] != b".":
            raise EOFError("no end")
        if strange:
            raise _RefusedError(f"expected finite weights, found others in {strange!a}".encode())
        return Contents(head["container"], head["config"], head["metadata"], head["groups"], arrays)


class _RefusedError(UserError):
    """What the child says of a file that it refuses; it lives on."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(plain(payload.decode(errors="replace").encode("ascii", "backslashreplace").decode(), 300))


def _frame(process: "subprocess.Popen[bytes]", most: int) -> tuple[bytes, bytes]:
    """The next frame, of at most so many bytes.

    Raises:
        EOFError: if there is none, or it is none.
    """
    assert process.stdout is not None
    start = process.stdout.read(9)
    size = int.from_bytes(start[1:], "big")
    if len(start) < 9 or start[:1] not in b"HAE." or size > max(most, child.MAX_TEXT_BYTES):
        raise EOFError("no frame")
    payload = process.stdout.read(size)
    if len(payload) < size:
        raise EOFError("half a frame")
    return start[:1], payload


def _origin(package: str) -> str:
    """The file of a package, which is found and not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"reading models needs {package}; install it with `pip install {package}`")
    return spec.origin


READER = Reader()
atexit.register(READER.close)
