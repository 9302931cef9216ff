"""What an engine asks while it runs: policies, small objects that decide after an epoch or a trial."""

from mnist_minimal.trial import EpochReport, Trial


class Policy:
    """Lets every trial run to its end, and the job to its last seed; what a policy decides, it overrides.

    All is called from the thread that runs the engine, in the order in which it happens.
    """

    def trial_started(self, seed: int) -> None:
        """Notes that a seed was taken; seeds are taken in the order of the job."""

    def epoch_ended(self, report: EpochReport) -> None:
        """Notes an epoch; raises to end the job."""

    def reason_to_stop(self, report: EpochReport) -> str | None:
        """Why a trial that has come to its milestone stops there, "" where it goes on, None where that isn't known yet.

        It is asked again after whatever happens next as long as it gives None.
        """
        return ""

    def trial_ended(self, trial: Trial) -> bool:
        """Whether the job ends with this trial, whose row is on disk; raises to end it with an error."""
        return False
