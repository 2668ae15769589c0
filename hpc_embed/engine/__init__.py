"""The engine: packed batches, encoders in plain torch, attention back ends, pooling, device facts."""
