"""Pass-by-pass debugging scripts and benchmarks, one file each."""
