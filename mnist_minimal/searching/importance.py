"""How much each choice matters, by Optuna's own measure, from what all candidates came to at the lowest rung.

Those that went further are too few, and chosen; at the lowest rung all were trained alike.
"""

from collections.abc import Mapping

import optuna
from optuna.trial import create_trial

# With fewer candidates the measure says more of chance than of the choices.
LEAST_TRIALS = 20


def importances(study: optuna.Study) -> Mapping[str, float]:
    """The importance of each coordinate of the space, with a sum of 1, the highest first; {} of too few trials."""
    compared = optuna.create_study(direction="maximize")
    for trial in study.get_trials(deepcopy=False):
        if 0 in trial.intermediate_values:
            compared.add_trial(
                create_trial(params=trial.params, distributions=trial.distributions, value=trial.intermediate_values[0])
            )
    if len(compared.trials) < LEAST_TRIALS:
        return {}
    return optuna.importance.get_param_importances(compared)
