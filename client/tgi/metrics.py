"""TGI's names for figures that ingot has under its own, for dashboards made for TGI. Knows Prometheus' text, no HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ingot.client.metrics import PREFIX

# Of samples as they stand in the text; histograms by their family's name.
TGI_NAMES = {
    f"{PREFIX}requests_total": "tgi_request_count",
    f"{PREFIX}request_success_total": "tgi_request_success",
    f"{PREFIX}request_failure_total": "tgi_request_failure",
    f"{PREFIX}e2e_request_latency_seconds": "tgi_request_duration",
    f"{PREFIX}request_queue_time_seconds": "tgi_request_queue_duration",
    f"{PREFIX}request_inference_time_seconds": "tgi_request_inference_duration",
    f"{PREFIX}request_time_per_output_token_seconds": "tgi_request_mean_time_per_token_duration",
    f"{PREFIX}request_prompt_tokens": "tgi_request_input_length",
    f"{PREFIX}request_generation_tokens": "tgi_request_generated_tokens",
    f"{PREFIX}num_requests_waiting": "tgi_queue_size",
    f"{PREFIX}num_requests_running": "tgi_batch_current_size",
}
LINE = re.compile(r"(# (?:HELP|TYPE) )?([a-zA-Z0-9_:]+?)(_bucket|_sum|_count)?(?=[ {])(.*)")


def with_tgi_names(text: bytes) -> bytes:
    """The text, and after it every figure that TGI has too, under TGI's name."""
    return text + "".join(renamed(text.decode())).encode()


def renamed(text: str) -> Iterator[str]:
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if found is not None and (name := TGI_NAMES.get(found[2])) is not None:
            yield f"{found[1] or ''}{name}{found[3] or ''}{found[4]}\n"
