"""vidur-router: route OpenAI-compatible HTTP requests to vLLM replicas with any scheduler of the simulator."""

from rl.vllm.process.router import main

if __name__ == "__main__":
    raise SystemExit(main())
