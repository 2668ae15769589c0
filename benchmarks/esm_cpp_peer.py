"""Runs in esm-cpp's own environment: prints tokens per second of its packed way in FP32, then quantised."""

import sys
import time

import esm_cpp
import numpy as np

weights, tokens = sys.argv[1:]
stored = np.load(tokens)
windows = [stored[name] for name in stored.files]


def tokens_per_second(model: esm_cpp.Model) -> float:
    """The better of two runs, after a warm-up."""
    model.forward_scheduled(windows[:4])
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        model.forward_scheduled(windows)
        best = min(best, time.perf_counter() - started)
    return sum(map(len, windows)) / best


model = esm_cpp.Model.load_from_safetensors(weights)
print(tokens_per_second(model))
model.quantize_weights()
print(tokens_per_second(model))
