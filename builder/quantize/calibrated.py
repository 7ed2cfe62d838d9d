"""fp8, int8, int4 and nvfp4 by NVIDIA ModelOpt: calibrate on text, export its unified Hugging Face checkpoint.

The only module that imports modelopt, and it does so when called: the import takes 5 to 10 seconds.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from ingot.builder.corpus import Corpus, token_sequences
from ingot.builder.hush import hushed
from ingot.builder.resolve import Job
from ingot.errors import DependencyError

CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8": "INT8_SMOOTHQUANT_CFG",
    "int4": "INT4_AWQ_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
}


def quantize_calibrated(job: Job, corpus: Corpus, folder: Path) -> None:
    """Writes the quantized checkpoint of `job` to `folder`. Holds the whole model in memory, on the GPU where there is one.

    With an FP8 KV cache the same pass calibrates k_scale and v_scale. Raises DependencyError where modelopt is missing.
    """
    recipe = job.recipe
    source = job.checkpoint
    texts = token_sequences(corpus, source.folder, length=recipe.calibration_length, count=recipe.calibration_samples)
    with hushed():
        mtq, export_hf_checkpoint = import_modelopt()
        import torch
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, job.config.dtype)
        loader: Any = AutoModelForCausalLM
        model = loader.from_pretrained(source.folder, dtype=dtype).to(device)

        def calibrate(model: Any) -> None:
            for text in texts:
                model(input_ids=torch.tensor([text], device=device), use_cache=False)

        with torch.no_grad():
            model = mtq.quantize(model, modelopt_config(mtq, job), calibrate)
        with torch.inference_mode():
            export_hf_checkpoint(model, export_dir=folder)
    for path in [*source.kept_files(), *source.text_files()]:
        if path.name != "config.json":  # the export's own says how it is quantized
            shutil.copyfile(path, folder / path.name)


def modelopt_config(mtq: Any, job: Job) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, CONFIGS[job.quant]))
    if job.recipe.kv == "fp8":
        config["quant_cfg"].extend(copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"]))
    return config


def import_modelopt() -> tuple[Any, Any]:
    try:
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint
    except ImportError as error:
        mend = "Install it: pip install 'ingot[build]'. --quant fp8-dynamic does without."
        raise DependencyError(f"Calibrated quantization needs NVIDIA ModelOpt: {error}.", mend=mend) from error
    return mtq, export_hf_checkpoint
