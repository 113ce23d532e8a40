"""python -m rl.vllm.load: send a workload to an OpenAI-compatible server, and record how each request is served."""

from rl.vllm.replay.load import main

if __name__ == "__main__":
    raise SystemExit(main())
