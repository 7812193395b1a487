"""Dynamic and static int8 quantization."""
