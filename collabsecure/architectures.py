"""Where families of models keep their blocks and MLP output projections."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Where a family of models keeps its blocks and projections; `{}` stands for the layer.

    >>> Architecture(block="transformer.h.{}", projection="transformer.h.{}.mlp.c_proj").projection_of(17)
    'transformer.h.17.mlp.c_proj'
    """

    block: str  # MEMIT's layer_module_tmp
    projection: str  # MEMIT's rewrite_module_tmp

    def block_of(self, layer: int) -> str:
        """The dotted path of a block, from the model's root."""
        return self.block.format(layer)

    def projection_of(self, layer: int) -> str:
        """The dotted path of a block's MLP output projection."""
        return self.projection.format(layer)


_GPT2 = Architecture(block="transformer.h.{}", projection="transformer.h.{}.mlp.c_proj")
_GPTJ = Architecture(block="transformer.h.{}", projection="transformer.h.{}.mlp.fc_out")
_LLAMA = Architecture(block="model.layers.{}", projection="model.layers.{}.mlp.down_proj")

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {"gpt2": _GPT2, "gptj": _GPTJ, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA}
)
"""The architectures that are known, by `config.model_type`."""
