"""The compiled simulation engine: its state, its kernels and the recording it leaves."""
