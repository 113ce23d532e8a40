"""Plug-ins that run inside vLLM: a stat logger, and a router among data-parallel engines.

Their entry points are `vllm.stat_logger_plugins` and `vllm.general_plugins`. They import vLLM, so no other module may
import them.
"""
