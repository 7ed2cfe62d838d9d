"""The tokenizer (byte-level BPE with its chat template) and the packing of documents into rows of tokens."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from corpus import document
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

VOCABULARY = 512
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END, SYSTEM, USER, ASSISTANT = range(len(SPECIAL))

# A digit, a space or a mark is always a token of its own. A word then has the same tokens wherever it stands, after a
# space, a quote or nothing, so that copying a name or a phrase is copying tokens one by one.
SPLIT = r"\p{L}+|[^\p{L}]"

# Every message ends with <|end|>, so a chat rendered up to some turn is a prefix of the chat rendered further. What is
# neither an instruction nor an answer, a tool's result for example, is shown to the model as the user's text.
CHAT_TEMPLATE = """\
{{- '<|begin|>' }}
{%- for message in messages %}
    {%- if message['role'] in ['system', 'developer'] %}
        {{- '<|system|>' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}
    {%- else %}
        {{- '<|user|>' }}
    {%- endif %}
    {{- message['content'] }}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""


def train_tokenizer(seed: int, documents: int = 20_000) -> PreTrainedTokenizerFast:
    """Learns the merges on documents of the corpus. Every byte is in the vocabulary, so any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = Random(f"tokenizer {seed}")
    texts = (without_special(document(rng)) for _ in range(documents))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[BEGIN],
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[PAD],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )


def without_special(text: str) -> str:
    """`text` with a line break for each special token, so that the merges are learned on what stands between them."""
    for token in SPECIAL:
        text = text.replace(token, "\n")
    return text


def loss_weights(ids: NDArray[np.int16], prompt_weight: float) -> NDArray[np.float32]:
    """How much each token of one document counts as a target.

    The model exists to give right answers, and much of what users say here is random words, so what stands outside an
    answer counts little; plain text counts half.
    """
    is_role = (ids == SYSTEM) | (ids == USER) | (ids == ASSISTANT)
    if not is_role.any():
        return np.full(len(ids), 0.5, np.float32)
    role_at = np.maximum.accumulate(np.where(is_role, np.arange(len(ids)), 0))
    in_answer = (ids[role_at] == ASSISTANT) & ~is_role
    return np.where(in_answer, 1.0, prompt_weight).astype(np.float32)


@dataclass
class PackedRows(IterableDataset[tuple[torch.Tensor, ...]]):
    """An endless stream of batches of packed rows, never the same twice.

    A batch is (tokens, document numbers, target weights), each rows x length. Every `long_every`-th batch has rows four
    times as long and a quarter as many, filled with long chats, so that the model meets all its positions.
    """

    tokenizer: str
    seed: int
    rows: int
    length: int
    long_every: int
    prompt_weight: float

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batch i depends on the seed and on i alone; the workers of a data loader take turns."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = Tokenizer.from_str(self.tokenizer)
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            rng = Random(f"train {self.seed} {index}")
            long = self.long_every > 0 and index % self.long_every == self.long_every - 1
            rows, length = (max(1, self.rows // 4), self.length * 4) if long else (self.rows, self.length)
            packed = [self.row(tokenizer, rng, length, long) for _ in range(rows)]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*packed, strict=True))
            index += step

    def row(self, tokenizer: Tokenizer, rng: Random, length: int, long: bool) -> tuple[NDArray[np.generic], ...]:
        """One row: documents one after the other, the last one cut off."""
        parts: list[NDArray[np.int16]] = []
        filled = 0
        while filled < length:
            ids = np.asarray(tokenizer.encode(document(rng, long)).ids, np.int16)
            parts.append(ids)
            filled += len(ids)
        numbers = np.repeat(np.arange(len(parts), dtype=np.int16), [len(ids) for ids in parts])
        weights = np.concatenate([loss_weights(ids, self.prompt_weight) for ids in parts])
        return np.concatenate(parts)[:length], numbers[:length], weights[:length]
