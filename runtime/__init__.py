"""Engine folder in, tokens out: scheduler, KV pages, prefix tree, programs, sampling, text. Knows no HTTP and no Triton."""
