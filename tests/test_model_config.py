"""Models by name, and from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from vidur.config import DEVICES, MODELS, NODES, ModelConfig, ReplicaConfig, SimulationConfig
from vidur.errors import InputError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "attention_bias": False,
}


def write(folder: Path, **changes: Any) -> Path:
    values = {key: value for key, value in {**LLAMA, **changes}.items() if value != "absent"}
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def error_of(name: str) -> str:
    with pytest.raises(InputError) as caught:
        ModelConfig.from_name(name)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("codellama/CodeLlama-34b-Instruct-hf", (48, 64, 8, 8192, 22016)),
        ("meta-llama/Llama-2-7b-hf", (32, 32, 32, 4096, 11008)),
        ("meta-llama/Llama-2-70b-hf", (80, 64, 8, 8192, 28672)),
        ("meta-llama/Meta-Llama-3-8B", (32, 32, 8, 4096, 14336)),
        ("meta-llama/Meta-Llama-3-70B", (80, 64, 8, 8192, 28672)),
        ("internlm/internlm-20b", (60, 40, 40, 5120, 13824)),
        ("internlm/internlm2-20b", (48, 48, 8, 6144, 16384)),
        ("microsoft/phi-2", (32, 32, 32, 2560, 10240)),
        ("Qwen/Qwen-72B", (80, 64, 64, 8192, 24576)),
        ("meta-llama/Llama-3.1-8B-Instruct", (32, 32, 8, 4096, 14336)),
        ("meta-llama/Llama-3.1-70B", (80, 64, 8, 8192, 28672)),
        ("Qwen/Qwen2.5-7B-Instruct", (28, 28, 4, 3584, 18944)),
        ("Qwen/Qwen2.5-72B", (80, 64, 8, 8192, 29568)),
        ("mistralai/Mistral-7B-v0.1", (32, 32, 8, 4096, 14336)),
        ("mistralai/Mistral-7B-Instruct-v0.3", (32, 32, 8, 4096, 14336)),
    ],
)
def test_known_models(name: str, shape: tuple[int, ...]) -> None:
    model = ModelConfig.from_name(name)
    assert shape == (
        model.num_layers,
        model.num_q_heads,
        model.num_kv_heads,
        model.embedding_dim,
        model.mlp_hidden_dim,
    )
    assert model.head_dim * model.num_q_heads == model.embedding_dim
    assert model.is_grouped_query == (model.num_kv_heads < model.num_q_heads)


def test_phi_2_is_not_gated_and_runs_in_parallel() -> None:
    phi = MODELS["microsoft/phi-2"]
    assert (phi.use_gated_mlp, phi.post_attn_norm, phi.use_qkv_bias) == (False, False, True)


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path)
    known = MODELS["meta-llama/Llama-3.1-8B"]
    for name in (str(path), str(tmp_path)):
        assert ModelConfig.from_name(name) == dataclasses.replace(known, name=name)
    config = SimulationConfig.from_cli(["--replica_config_model_name", str(tmp_path)])
    assert config.cluster_config.replica_config.model.num_kv_heads == 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_key_value_heads": "absent"}, {"num_kv_heads": 32}),
        ({"num_key_value_heads": None}, {"num_kv_heads": 32}),
        ({"head_dim": 256}, {"head_dim": 256}),
        ({"attention_bias": True}, {"use_qkv_bias": True}),
        ({"architectures": ["Qwen2ForCausalLM"]}, {"use_qkv_bias": True, "use_gated_mlp": True}),
        ({"architectures": ["Qwen3ForCausalLM"], "head_dim": 128}, {"head_dim": 128, "use_qkv_bias": False}),
        ({"architectures": ["PhiForCausalLM"]}, {"use_gated_mlp": False, "post_attn_norm": False}),
        ({"architectures": ["GemmaForCausalLM"], "hidden_act": "gelu"}, {"use_gated_mlp": True}),
        ({"architectures": ["InternLM2ForCausalLM"], "bias": False}, {"use_qkv_bias": False}),
        ({"architectures": ["QWenLMHeadModel"], "intermediate_size": 49152}, {"mlp_hidden_dim": 24576}),
        ({"architectures": ["NovelForCausalLM"]}, {"use_gated_mlp": True}),
        ({"architectures": "absent", "hidden_act": "absent"}, {"use_gated_mlp": True}),
        ({"architectures": "absent", "model_type": "phi"}, {"use_gated_mlp": False}),
    ],
)
def test_what_an_architecture_says(changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    model = ModelConfig.from_name(str(write(tmp_path, **changes)))
    assert {key: getattr(model, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "mixture of experts"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "mixture of experts"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 256}, "mixture of experts"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "not a causal decoder"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "not a causal decoder"),
        ({"text_config": {}}, "multimodal"),
        ({"architectures": ["MambaForCausalLM"], "state_size": 16}, "layers without attention"),
        ({"architectures": ["MiniCPM3ForCausalLM"], "kv_lora_rank": 256}, "MLA"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
        ({"architectures": ["NovelForCausalLM"], "hidden_act": "gelu"}, "unknown architecture NovelForCausalLM"),
        ({"num_hidden_layers": "absent"}, "num_hidden_layers is missing"),
        ({"hidden_size": "big"}, "hidden_size must be a positive integer, not 'big'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer"),
        ({"num_attention_heads": 30}, "no multiple of the 30 heads"),
        ({"num_key_value_heads": 5}, "num_key_value_heads 5 does not divide"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    line = error_of(str(write(tmp_path, **changes)))
    assert "config.json" in line
    assert part in line


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    assert "not JSON" in error_of(str(path))
    path.write_text("[]")
    assert "JSON object" in error_of(str(path))
    path.write_bytes(b"\xff")
    assert "UTF-8" in error_of(str(path))


def test_a_path_without_a_file(tmp_path: Path) -> None:
    assert "no model configuration at" in error_of(str(tmp_path))
    assert "no model configuration at" in error_of("./none.json")


def test_an_unknown_name_gets_the_nearest() -> None:
    assert "did you mean meta-llama/Llama-2-7b-hf" in error_of("meta-llama/Llama-2-7b")


def test_devices_and_nodes_agree() -> None:
    for name, device in DEVICES.items():
        assert NODES[device.default_node].device == name
        assert ReplicaConfig(device=name).network_device == device.default_node
    for node in NODES.values():
        assert ReplicaConfig(device=node.device, network_device=node.name).device_sku.name == node.device


@pytest.mark.parametrize(("name", "tflops", "memory"), [("a40", 150, 45), ("a100", 312, 80), ("h100", 1000, 80)])
def test_upstreams_device_figures(name: str, tflops: int, memory: int) -> None:
    assert (DEVICES[name].fp16_tflops, DEVICES[name].total_memory_gb) == (tflops, memory)


def test_a_replica_fills_whole_nodes() -> None:
    ReplicaConfig(tensor_parallel_size=8)
    with pytest.raises(InputError, match="do not fill whole nodes"):
        ReplicaConfig(model_name="Qwen/Qwen2.5-7B", tensor_parallel_size=7)
