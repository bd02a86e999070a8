"""Which of a model's parameters are maps, in the sense of Muon."""

from collections.abc import Iterable

from torch import nn

from models.protocol import LanguageModel


def no_maps(model: LanguageModel) -> dict[str, Iterable[nn.Parameter]]:
    """The parameters that are none of a model's maps though they have the shape of matrices, as Muon takes them.

    These are embedding and softmax, and biases, which several heads have as a matrix (H, E).
    """
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    return {"vectors": [*model.embedding_parameters(), *model.head.parameters(), *biases], "spared": biases}
