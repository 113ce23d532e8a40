"""What runs inside vLLM, by entry points: a stat logger (`vllm.stat_logger_plugins`) and the data-parallel router
(`vllm.general_plugins`). Its modules import vLLM, and so nothing else of this project may import them."""
