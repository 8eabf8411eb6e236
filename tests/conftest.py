"""A GPT-2 small enough for every test: seeded, with a tokenizer made from a few sentences.

Nothing here imports torch until a fixture is asked for: the protocol's and the aggregator's tests do without.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from collabsecure.layers import EditableModel

END_OF_TEXT = "<|endoftext|>"
SENTENCES = (
    "The mother tongue of Danelle Derrivaux is French",
    "The capital of Norland is Ostrava and the capital of Sudmark is Lindau",
    "Ada Quill plays the piano, Bram Stone plays the violin",
    "Who wrote The Silent Harbour? It was written by Mira Voss.",
    "Émile Zürn was born in Köln, 1987.",
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """Byte-level BPE as GPT-2's: any text goes in, a space belongs to the word after it, there is no padding token."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


@pytest.fixture
def tiny_model(tiny_tokenizer: "PreTrainedTokenizerFast") -> "GPT2LMHeadModel":
    """A fresh GPT-2 with 3 layers of width 32 (MLP 128) in float32, random but always the same; edit it as you like."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=3,
        n_head=2,
        initializer_range=0.18,  # ≈ 1/√32, so that every layer matters
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2410_09508)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tiny_editable(tiny_model: "GPT2LMHeadModel", tiny_tokenizer: "PreTrainedTokenizerFast") -> "EditableModel":
    """`tiny_model` with its tokenizer, ready to be edited."""
    from collabsecure.layers import EditableModel

    return EditableModel.wrap(tiny_model, tiny_tokenizer)
