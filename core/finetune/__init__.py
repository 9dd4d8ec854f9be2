"""Training a LoRA adapter: rows and batches, the loss, the loop, checkpoints, memory and verification.

Only :mod:`core.finetune.memory` is light; the others load torch.
"""
