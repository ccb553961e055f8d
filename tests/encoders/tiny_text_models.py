"""Tiny text models with a tokenizer, made on the spot and saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = tuple("a red blue cat dog sits runs on the mat grass slowly un ##happy ##ly".split())  # noqa: SIM905


def save_text_model(folder: Path, kind: str = "distilbert") -> Path:
    """A folder with a tiny model of random weights, without dropout, and a WordPiece tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from swamp_dist.encoders.libraries import import_transformers

    transformers = import_transformers()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*marks, *WORDS])}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "distilbert":
            config = transformers.DistilBertConfig(
                vocab_size=len(vocabulary), dim=16, hidden_dim=32, n_heads=2, n_layers=3,
                max_position_embeddings=64, dropout=0.0, attention_dropout=0.0,
            )  # fmt: skip
            model = transformers.DistilBertModel(config)
        else:
            config = transformers.BertConfig(
                vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32,
                num_attention_heads=2, num_hidden_layers=3, max_position_embeddings=64,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )  # fmt: skip
            model = transformers.BertForMaskedLM(config)
        model.save_pretrained(folder)
    return folder
