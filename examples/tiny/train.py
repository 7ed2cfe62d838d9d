"""Trains the tiny model on chats that it generates as it goes, and writes it as a Hugging Face folder.

    python train.py --out . --minutes 2.5                 # on a GPU
    python train.py --out /tmp/tiny --steps 50 --rows 4   # a trial on a CPU

The learning rate follows the share of the run that is over, measured in steps or in minutes, whichever is further, so
a run always ends in time and always ends at a learning rate of zero.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random

import torch
from corpus import chat, render
from questions import write_all
from tokens import BEGIN, END, PAD, VOCABULARY, PackedRows, train_tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WARMUP = 0.04
NOISE_FROM = 0.35
NOISE_GROUP = 128


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this many minutes of training")
    parser.add_argument("--steps", type=int, default=1_000_000, help="stop after this many steps")
    parser.add_argument("--rows", type=int, default=64, help="rows in a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--long-every", type=int, default=8, help="each how many-th batch has rows four times as long")
    parser.add_argument("--prompt-weight", type=float, default=0.1, help="loss weight of what is not an answer")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that generate data beside this one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def new_model() -> LlamaForCausalLM:
    """The model to train: a Llama of 3.3 million parameters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def learning_rate(progress: float) -> float:
    """The learning rate's share of its maximum: a short warm-up, then a straight line down to zero."""
    return min(progress / WARMUP, (1.0 - progress) / (1.0 - WARMUP), 1.0)


@contextmanager
def weight_noise(weights: list[Tensor]) -> Iterator[None]:
    """Shakes the weights, inside the block, by as much as rounding them to 4-bit integers would.

    A model trained under this noise as well as without it keeps its answers when its weights are quantized.
    """
    kept = [weight.detach().clone() for weight in weights]
    for weight in weights:
        groups = weight.data.view(weight.shape[0], -1, NOISE_GROUP)
        step = groups.abs().amax(-1, keepdim=True) / 7
        groups.add_((torch.rand_like(groups) - 0.5) * step)
    try:
        yield
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.data.copy_(value)


def batch_loss(model: nn.Module, tokens: Tensor, documents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted loss of one batch, and the share of answer tokens that the model would have chosen itself.

    No token sees another document. Positions run on through a row: attention depends on distances alone.
    """
    tokens, length = tokens.long(), tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    mask = (documents[:, None, :, None] == documents[:, None, None, :]) & causal
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    targets = tokens[:, 1:]
    # The first token of a document is not to be guessed from the document before it.
    weights = weights[:, 1:] * (documents[:, 1:] == documents[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    loss = (losses * weights.flatten()).sum() / weights.sum()
    answers = weights == 1.0
    right = ((logits.argmax(-1) == targets) & answers).sum() / answers.sum()
    return loss, right


def optimizer_for(model: nn.Module, rate: float, device: str) -> torch.optim.Optimizer:
    """AdamW, with weight decay on the matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=device.startswith("cuda"))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> None:
    """Trains `model` in place until the steps or the minutes are used up."""
    rows = PackedRows(
        tokenizer.backend_tokenizer.to_str(),
        options.seed,
        options.rows,
        options.length,
        options.long_every,
        options.prompt_weight,
    )
    ahead = 4 if options.workers else None
    batches = iter(DataLoader(rows, batch_size=None, num_workers=options.workers, prefetch_factor=ahead))
    device = options.device
    model.to(device).train()
    optimizer = optimizer_for(model, options.rate, device)
    noisy = [module.weight for module in model.model.modules() if isinstance(module, nn.Linear)]
    half = torch.autocast("cuda", torch.bfloat16) if device.startswith("cuda") else nullcontext()
    batch = next(batches)
    step, seen, started = 0, 0, time.monotonic()
    while (progress := max(step / options.steps, (time.monotonic() - started) / 60 / options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * learning_rate(progress)
        tokens, documents, weights = (part.to(device, non_blocking=True) for part in batch)
        with weight_noise(noisy) if progress > NOISE_FROM and step % 2 else nullcontext():
            with half:
                loss, right = batch_loss(model, tokens, documents, weights)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + tokens.numel()
        if step % (100 if device.startswith("cuda") else 10) == 0:
            rate = seen / (time.monotonic() - started)
            print(
                f"step {step}  {progress:4.0%}  loss {loss.item():.4f}  answer tokens right {right.item():.2%}"
                f"  {rate / 1000:.0f}k tokens/s",
                flush=True,
            )
        batch = next(batches)
    print(f"{step} steps, {seen / 1e6:.1f}M tokens, {time.monotonic() - started:.0f} s", flush=True)


def check_template(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Checks that the chat template renders chats as the training data has them."""
    rng = Random(f"template {seed}")
    for _ in range(100):
        messages = chat(rng, held=False)
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        if rendered != render(messages):
            raise SystemExit(f"the chat template disagrees with the corpus:\n{rendered}")


def write_folder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> None:
    """Writes the model in bfloat16, its tokenizer, and the data that lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.cpu().bfloat16().eval()
    model.generation_config = GenerationConfig(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD, do_sample=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Readers from before transformers 5 look for the base of the rotary embedding here.
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"rope_theta": 10000.0, "torch_dtype": "bfloat16"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_all(folder, seed)


def main() -> None:
    """Trains and writes the model."""
    options = arguments()
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    tokenizer = train_tokenizer(options.seed)
    check_template(tokenizer, options.seed)
    model = new_model()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters on {options.device}", flush=True)
    train(model, tokenizer, options)
    write_folder(model, tokenizer, options.out, options.seed)


if __name__ == "__main__":
    main()
