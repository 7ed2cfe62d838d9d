"""Engines of encoders: a checkpoint of the BERT family, packed and compared with transformers' own model of it."""
