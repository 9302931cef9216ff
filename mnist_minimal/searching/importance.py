"""How much each choice matters, by Optuna's PED-ANOVA, from what all candidates came to at the lowest rung.

It is by how much the values of a choice differ between the best tenth of the candidates and all of them; nothing in it
is random, and it takes a moment for thousands. Those that went further are too few, and chosen; at the lowest rung all
were trained alike. But the limit of parameters falls whenever a candidate reaches the target, and with it what a share
of them is: the importances are those of a mixture of limits.
"""

from collections.abc import Mapping

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
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
    # By name, since what Optuna takes by default is another one before its version 5.
    return optuna.importance.get_param_importances(compared, evaluator=PedAnovaImportanceEvaluator())
