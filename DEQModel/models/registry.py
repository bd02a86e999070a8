"""The models that trained files may be of, by name."""

from collections.abc import Mapping

from models.protocol import ModelSpec
from models.transformer_xl.spec import SPEC as TRANSFORMER_XL
from models.transformers.spec import SPEC as DEQ_TRANSFORMER
from models.trellisnets.spec import SPEC as DEQ_TRELLISNET

MODELS: Mapping[str, ModelSpec] = {spec.name: spec for spec in (DEQ_TRANSFORMER, DEQ_TRELLISNET, TRANSFORMER_XL)}
