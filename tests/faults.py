"""What the tests of faults have in common: the job that meets them, and the count of what came of them."""

from collections.abc import Callable

from mnist_minimal.trial import Trial
from tests.jobs import Job, differences

OPTIONS = ("--runs", "2", "--epochs", "2", "--trainer", "native")


class Count:
    """Counts the faults of a test as they are caused."""

    def __init__(self, undisturbed: Job) -> None:
        self.undisturbed = undisturbed
        self.caused = self.survived = self.lost = 0
        self.what: list[str] = []

    def goes_on(self, job: Job, before: list[Trial], disturb: Callable[[], None] | None = None) -> str:
        """Gives the command again, looks at what is there then, and gives what was printed.

        Args:
            job: The job that met a fault.
            before: Its finished trials when the fault came.
            disturb: As of `Job.start`.
        """
        self.caused += 1
        status, output = job.run(disturb)
        assert "Traceback" not in output, output
        found = differences(job, self.undisturbed, before) if status == 0 else [f"status {status}: {output}"]
        self.survived += not found
        self.lost += sum(trial not in job.rows() for trial in before)
        self.what += found
        return output


def rows(job: Job) -> list[Trial]:
    return job.rows() if job.csv.exists() else []


def one_error(output: str, *said: str) -> None:
    """Asserts that a job ended with one plain line that says all this."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert all(text in errors[0] for text in said), errors[0]
    assert "Traceback" not in output
    assert "Exception ignored" not in output
