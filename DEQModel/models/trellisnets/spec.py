"""The DEQ-TrellisNet as the training recipe knows it."""

from typing import Any

from models.bins import resolved_cutoffs
from models.configuration import configured
from models.protocol import ModelSpec
from models.trellisnets.config import DEQTrellisNetConfig, DEQTrellisNetFlags
from models.trellisnets.cost import trellisnet_cost
from models.trellisnets.model import DEQTrellisNetLM, initialise_parameters
from models.trellisnets.weights import DEQTrellisNetWeights


def configure(settings: Any, n_token: int) -> DEQTrellisNetConfig:
    """The configuration that settings and a vocabulary come to."""
    return configured(DEQTrellisNetConfig, settings, n_token)


SPEC = ModelSpec(
    name="DEQ-TrellisNet",
    program="train_trellisnet.py",
    flags=DEQTrellisNetFlags,
    resolve=resolved_cutoffs,
    configure=configure,
    build=DEQTrellisNetLM,
    initialise=lambda model, settings: initialise_parameters(model),
    weights=DEQTrellisNetWeights(),
    cost=trellisnet_cost,
)
