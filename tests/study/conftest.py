"""Jobs that a fault is caused to, one beside them that nothing disturbs, and the count of the faults."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import OPTIONS, Count
from tests.jobs import Job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Job:
    job = Job(tmp_path_factory.mktemp("undisturbed"), OPTIONS)
    status, output = job.run()
    assert status == 0, output
    return job


@pytest.fixture
def count(request, undisturbed) -> Iterator[Count]:
    """Counts this test's faults for the table, and fails it unless each was survived and none lost a trial."""
    count = Count(undisturbed)
    yield count
    request.node.user_properties.append(("faults", (count.caused, count.survived, count.lost)))
    assert (count.survived, count.lost) == (count.caused, 0), count.what


@pytest.fixture
def new_job(tmp_path) -> Callable[[], Job]:
    """Jobs like the undisturbed one, each in a folder of its own."""

    def job() -> Job:
        return Job(Path(tempfile.mkdtemp(dir=tmp_path)), OPTIONS)

    return job
