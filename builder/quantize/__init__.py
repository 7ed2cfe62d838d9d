"""How a checkpoint becomes a quantized checkpoint, and what a quantized checkpoint says of itself.

ModelOpt is imported in `calibrated` alone. What leaves this folder is a Hugging Face checkpoint that others load too.
"""
