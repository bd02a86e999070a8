"""The models by name, each built from a run's settings and its task's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from models.protocol import LanguageModel
from models.transformers.config import DEQTransformerConfig
from models.transformers.initialisation import initialise_parameters, pass_on_the_input
from models.transformers.model import DEQTransformerLM
from models.trellisnets import model as trellisnets
from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import DEQTrellisNetLM
from synthetic.recurrent import RecurrentLM
from synthetic.stack import TransformerStack
from synthetic.tcn import TCN


def _deq_transformer(settings: Any, n_token: int) -> DEQTransformerLM:
    _check_heads(settings)
    model = DEQTransformerLM(
        DEQTransformerConfig(
            n_token=n_token,
            n_head=settings.n_head,
            d_head=settings.d_model // settings.n_head,
            d_model=settings.d_model,
            d_inner=settings.d_inner,
            d_embed=settings.d_model,
            tied=not settings.not_tied,
            inject=settings.inject,
            inject_norm=settings.inject_norm,
            feedback=settings.feedback,
            norm_affine=settings.norm_affine,
        )
    )
    _initialise(model, settings.init_std)
    if settings.inject != "attention":
        pass_on_the_input(model)
    return model


def _deq_trellisnet(settings: Any, n_token: int) -> DEQTrellisNetLM:
    if settings.d_embed > settings.d_model:
        raise ValueError(
            f"`d_embed` {settings.d_embed} is more than `d_model` {settings.d_model}, of which the output is a part: "
            "lower it"
        )
    model = DEQTrellisNetLM(
        DEQTrellisNetConfig(
            n_token=n_token,
            d_embed=settings.d_embed,
            nhid=settings.d_model - settings.d_embed,
            nout=settings.d_embed,
            ksize=settings.kernel_size,
            dilation=settings.dilation,
            wnorm=True,
        )
    )
    trellisnets.initialise_parameters(model)
    return model


def _stack(settings: Any, n_token: int) -> TransformerStack:
    _check_heads(settings)
    model = TransformerStack(
        n_token,
        n_layer=settings.n_layer,
        d_model=settings.d_model,
        n_head=settings.n_head,
        d_inner=settings.d_inner,
        tied=not settings.not_tied,
    )
    _initialise(model, settings.init_std)
    return model


def _tcn(settings: Any, n_token: int) -> TCN:
    return TCN(n_token, d_model=settings.d_model, n_layer=settings.n_layer, kernel_size=settings.kernel_size)


def _recurrent(settings: Any, n_token: int) -> RecurrentLM:
    return RecurrentLM(
        settings.model, n_token, d_embed=settings.d_embed, d_model=settings.d_model, n_layer=settings.n_layer
    )


MODELS: dict[str, Callable[[Any, int], LanguageModel]] = {
    "deq_transformer": _deq_transformer,
    "deq_trellisnet": _deq_trellisnet,
    "stack": _stack,
    "tcn": _tcn,
    "lstm": _recurrent,
    "gru": _recurrent,
}


def build(settings: Any, n_token: int) -> LanguageModel:
    """A new model; its weights come from PyTorch's global random generator.

    Raises:
        ValueError: settings that contradict each other, named in backticks.
    """
    return MODELS[settings.model](settings, n_token)


def check_reach(model: LanguageModel, length: int) -> None:
    """Refuse a TCN whose last position does not see the first.

    Raises:
        ValueError: with the setting in backticks.
    """
    if isinstance(model, TCN) and model.reach < length:
        raise ValueError(
            f"`n_layer` {len(model.blocks)} and `kernel_size` {model.kernel_size} see {model.reach} positions of "
            f"{length}: raise `n_layer`"
        )


def _check_heads(settings: Any) -> None:
    if settings.d_model % settings.n_head:
        raise ValueError(
            f"`d_model` {settings.d_model} is no multiple of `n_head` {settings.n_head}: change one of them"
        )


def _initialise(model: nn.Module, std: float) -> None:
    if std < 0:
        return
    initialise_parameters(
        model,
        init="normal",
        init_range=0.0,
        init_std=std,
        proj_init_std=std,
        emb_init="normal",
        emb_init_range=0.0,
    )
