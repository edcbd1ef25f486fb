"""The models that the benchmarks run on."""

from __future__ import annotations

import tempfile
from typing import Any


def random_llama(*, d_model: int, n_layers: int, n_heads: int, vocabulary: int) -> tuple[Any, Any]:
    """Return one random-weight Llama whose words are numbers: as transformers' model, and loaded as a user would.

    Torch is set to one thread.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    import mspgt_tl

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {str(i): i for i in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=d_model * 8 // 3,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        reference = LlamaForCausalLM(config).eval()
        reference.save_pretrained(folder)
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        return reference, mspgt_tl.load(folder)
