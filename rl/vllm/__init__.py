"""The router in front of real vLLM replicas. Imports neither torch nor numba, but for rl.vllm.learn.improvement."""
