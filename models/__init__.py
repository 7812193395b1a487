"""Networks, data, training, distillation and export, in PyTorch, before graphopt."""
