"""Everything that starts onnxruntime."""
