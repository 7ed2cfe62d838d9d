"""Prints docs/openai.md: every route and field, from the code that honours or refuses them, beside what other servers do."""

from __future__ import annotations

import sys
from typing import cast

from ingot.client.backend import Backend
from ingot.client.openai.app import create_app
from ingot.client.openai.convert import REFUSED, USED
from ingot.client.openai.refusals import Refusal

HEAD = """# The OpenAI API, field by field

Written by `make docs` from the server's own tables; a test compares the two. A field that stands in neither table is
refused by its name, so nothing is ever dropped in silence.

The columns for other servers say what their documents and issue threads said in November 2026; `?`: not established.
TOF is Triton's OpenAI front end.

"""
EMBEDDINGS = """
- A decoder's vector is its last hidden state, after the final norm: of the last token, or the mean of all. Which, if the
  request does not say, `ingot build --pooling` or the checkpoint's sentence-transformers files have said. Encoders (BERT,
  RoBERTa, XLM-R) also know `cls`.
- Vectors have length 1 unless `normalize` is false, or the checkpoint's files have no Normalize module and the request does
  not ask for it. `dimensions` keeps the first so many, and scales again.
- `input`: up to 2048 texts or lists of token ids, each at most the model's length; TEI's `/embed` can also cut them.
"""
BATCHES = """
- `ingot serve --batch-dir DIR` keeps files and batches in DIR, which one server has at a time; without it the routes answer 404.
- Endpoints: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`. A file with a bad line fails whole,
  with up to 100 errors by line. A request that is refused has its status in the error file, and `request_counts.failed` counts it.
- A batch's requests run behind everybody else's: at most `--batch-concurrency` at once, of the lowest priority. One that finds
  no room waits. One under which the executor died three times is given up with its 503.
- A server that is stopped or killed goes on where it was; nothing that has an answer is asked again. Order within the answers'
  file is that of their coming. After 24 hours what is left gets `batch_expired`.
- Files: purpose `batch` alone, as large as `--max-body-mib`, 10,000 a key, 64 GiB together, 50,000 requests each; kept for 30 days
  or as long as `expires_after` says. A key sees its own files and batches; without keys, each key that clients send counts as one.
"""
FORMATS = """
## Formats and tools

- Schemas, expressions, choices and grammars are enforced token by token (xgrammar). A schema with a keyword that cannot be
  enforced is refused with the keyword's path: `not`, `if`, `contains`, `uniqueItems`, `dependentRequired`, `allOf` of
  several, bounds without a type, `required` names without a property. `oneOf` is enforced as `anyOf`; `format` where it is
  one that xgrammar knows. Objects have no properties but those named, unless `additionalProperties` says otherwise.
  So is a bound beside `enum`, `const` or `format`, a value that is not of its schema's `type`, a fraction as `multipleOf`, and
  in patterns and expressions an anchor within the text, `\\A` and `\\Z`, and looking ahead or behind.
- A grammar beats `min_tokens`, and `ignore_eos` is refused beside one.
- Limits: 65536 characters, 2048 schemas, 64 levels, 256 branches, 1024 values, counts to 16384; 5 s and 1 GiB to compile.
- `tool_choice` `required` and a named function are grammars, so the call always parses; with `auto` the calls are read from
  the answer in the model's own notation: hermes (Qwen too), llama3_json, mistral; `--tool-call-parser` names it.
- A function's parameters are enforced, `strict` or not, where a call is forced. Under `auto` they are where `strict` is true, in
  every dialect that has the field: text and thoughts stay free, and from a call's mark on (in llama3_json also from a bracket
  that an answer begins with) only a call of one of the tools can be written. Tools that are not strict then take any JSON object.
  Names come before arguments, or in hermes and mistral after them; behind calls in llama3_json and mistral nothing follows.
  A strict schema that cannot be enforced is refused; so is `ignore_eos`. No text begins with what llama3_json's mark begins with
  twice over, such as `<<|`. All tools together count against the 5 s of a grammar: 30 tools of eight
  properties take 2.5 s on two slow cores with a vocabulary of 128,256, and a set of tools that was used lately none.
- A format beside tools under `auto` is a format: nothing is called. `parallel_tool_calls` false keeps the first call, with which
  an answer of strict tools ends.
- `--reasoning-parser` (deepseek_r1, granite, mistral, qwen3) moves thoughts into `reasoning_content`.
- `reasoning_effort` is told to the chat template: `none` as `enable_thinking` or `thinking` false, any other as
  `reasoning_effort`. Where the template reads no such name it is refused; `none` passes where no thoughts are told apart.
- Log-probabilities are of the model's raw distribution, before penalties, biases and grammars; the token that ends a text has one too.

## Sampling defaults

What a request leaves unset is, in this order: what the checkpoint's `generation_config.json` says (`temperature`, `top_p`, `top_k`,
`min_p`, `repetition_penalty`; as vLLM, whatever its `do_sample` says), or else the dialect's own: OpenAI's, which sample from the
unmodified distribution, or Ollama's. `ingot serve` prints the model's when it starts; `--generation-config none` leaves
them out. Its `max_new_tokens` is not taken: an answer may fill the engine's length.
"""
SERVERS = ("vLLM", "SGLang", "TGI", "TOF")
UNKNOWN = ("?", "?", "?", "?")
YES = ("yes", "yes", "yes", "?")

ROUTES: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("yes", "yes", "yes", "yes"),
    "/v1/completions": ("yes", "yes", "yes", "single-string prompts"),
    "/v1/models": ("yes", "yes", "yes", "?"),
    "/v1/responses": ("yes", "yes", "no", "no"),
    "/v1/embeddings": ("yes", "yes", "no", "with vLLM backend"),
    "/v1/files": ("no", "?", "no", "?"),
    "/v1/batches": ("`vllm run-batch`", "?", "no", "?"),
    "/embed": ("no", "?", "TEI's", "?"),
    "/v1/messages": ("yes", "yes", "no", "?"),
    "/generate": ("no", "own shape", "yes", "?"),
    "/generate_stream": ("no", "?", "yes", "?"),
    "/v1/messages/count_tokens": ("yes", "?", "no", "?"),
    "/tokenize": ("yes", "yes", "yes", "?"),
    "/detokenize": ("yes", "yes", "?", "?"),
    "/health": ("yes", "yes", "yes", "?"),
    "/metrics": ("yes", "`--enable-metrics`", "`tgi_*`", "?"),
}
FIELDS: dict[str, tuple[str, ...]] = {
    "best_of": ("removed", "no", "in `/generate`", "1 only"),
    "cache_salt": ("yes", "?", "?", "?"),
    "guided_choice": ("older spelling", "?", "?", "?"),
    "guided_grammar": ("older spelling", "?", "?", "?"),
    "guided_json": ("older spelling", "?", "?", "?"),
    "guided_regex": ("older spelling", "?", "?", "?"),
    "logit_bias": ("yes", "yes", "accepted, unused", "refused"),
    "logprobs": ("yes", "yes", "yes", "with vLLM backend"),
    "min_p": ("yes", "yes", "no", "?"),
    "n": ("yes", "yes", "accepted, unused", "1 only"),
    "priority": ("yes", "yes", "no", "?"),
    "prompt": ("yes", "yes", "yes", "single strings"),
    "prompt_logprobs": ("yes", "yes", "?", "?"),
    "response_format": ("yes", "yes", "yes", "?"),
    "seed": ("yes", "in deterministic mode", "yes", "?"),
    "stop": YES,
    "structured_outputs": ("yes", "own fields", "own fields", "?"),
    "suffix": ("refused", "?", "?", "?"),
    "tool_choice": YES,
    "tools": ("yes", "yes", "yes", "llama3, mistral"),
    "top_logprobs": ("yes", "yes", "yes", "with vLLM backend"),
}


def table(first: str, rows: list[tuple[str, ...]]) -> str:
    head = (first, "ingot", *SERVERS)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"


def routes() -> str:
    app = create_app(cast(Backend, None))  # no route is called
    found = {
        (path, method)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if method in ("get", "post", "delete")
    }
    rows = [(f"`{method.upper()} {path}`", "yes", *ROUTES.get(path, UNKNOWN)) for path, method in sorted(found)]
    return table("Route", rows)


def fields(route: str) -> str:
    rows = [(f"`{name}`", "honoured", *FIELDS.get(name, UNKNOWN)) for name in sorted(USED[route])]
    refused = sorted(REFUSED[route].items())
    rows += [(f"`{name}`", told(one), *FIELDS.get(name, UNKNOWN)) for name, one in refused]
    return table("Field", rows)


def told(refusal: Refusal) -> str:
    but = f"accepted and without effect: {refusal.passes}; all else is " if refusal.passes else ""
    return f"{but}refused: {refusal.mend}"


def render() -> str:
    parts = [HEAD, "## Routes\n\n", routes(), "\n## /v1/chat/completions\n\n", fields("chat")]
    parts += ["\n## /v1/completions\n\n", fields("completions"), "\n## /v1/embeddings\n\n", fields("embeddings")]
    parts += [EMBEDDINGS, "\n## /v1/batches\n\n", fields("batches")]
    return "".join([*parts, BATCHES, FORMATS])


if __name__ == "__main__":
    sys.stdout.write(render())
