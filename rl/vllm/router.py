"""vidur-router: an OpenAI-compatible HTTP router in front of vLLM replicas, by any scheduler of the simulator."""

from rl.vllm.process.router import main

if __name__ == "__main__":
    raise SystemExit(main())
