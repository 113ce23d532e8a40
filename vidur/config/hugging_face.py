"""Read a model's shape from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidur.documents import load_document
from vidur.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """What an architecture's name implies and its config.json omits.

    qkv_bias: None if a key of the file says it. mlp_share: the MLP's width as a fraction of intermediate_size (Qwen 1
    counts both halves of the gate).
    """

    gated: bool = True
    qkv_bias: bool | None = None
    post_attn_norm: bool = True
    mlp_share: float = 1.0


PARALLEL = Architecture(gated=False, qkv_bias=True, post_attn_norm=False)
ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(),
    "MistralForCausalLM": Architecture(qkv_bias=False),
    "MinistralForCausalLM": Architecture(qkv_bias=False),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True),
    "Qwen3ForCausalLM": Architecture(),
    "QWenLMHeadModel": Architecture(qkv_bias=True, mlp_share=0.5),
    "GemmaForCausalLM": Architecture(),
    "Gemma2ForCausalLM": Architecture(),
    "Gemma3ForCausalLM": Architecture(),
    "PhiForCausalLM": PARALLEL,
    "Phi3ForCausalLM": Architecture(),
    "InternLMForCausalLM": Architecture(),
    "InternLM2ForCausalLM": Architecture(),
    "InternLM3ForCausalLM": Architecture(),
    "BaichuanForCausalLM": Architecture(qkv_bias=False),
    "YiForCausalLM": Architecture(qkv_bias=False),
    "StableLmForCausalLM": Architecture(),
    "OlmoForCausalLM": Architecture(),
    "Olmo2ForCausalLM": Architecture(),
    "GraniteForCausalLM": Architecture(),
    "SmolLM3ForCausalLM": Architecture(),
    "CohereForCausalLM": Architecture(post_attn_norm=False),
    "Cohere2ForCausalLM": Architecture(post_attn_norm=False),
    "Starcoder2ForCausalLM": Architecture(gated=False, qkv_bias=True),
    "NemotronForCausalLM": Architecture(gated=False),
    "GPTNeoXForCausalLM": PARALLEL,
}
QKV_BIAS_KEYS = ("attention_bias", "use_qkv_bias", "qkv_bias", "use_bias", "bias")
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
STATE_SPACE_KEYS = ("ssm_cfg", "mamba_d_state", "ssm_state_size", "state_size", "hybrid_override_pattern")
GATED_ACTIVATIONS = ("silu", "swish", "swiglu")


def read_hugging_face_config(path: Path) -> dict[str, Any]:
    """Read the fields of a ModelConfig, except its name, from a config.json.

    Raises InputError, naming the file, if it does not describe a dense decoder.
    """
    values = _read(path)
    _refuse_other_kinds(values, path)
    architecture = _architecture(values, path)
    heads = _count(values, path, "num_attention_heads")
    embedding = _count(values, path, "hidden_size")
    if values.get("head_dim") is None and embedding % heads:
        raise InputError(f"{path}: hidden_size {embedding} is no multiple of the {heads} heads: give head_dim")
    kv_heads = _count(values, path, "num_key_value_heads", default=heads)
    if kv_heads > heads or heads % kv_heads:
        raise InputError(f"{path}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}")
    bias = architecture.qkv_bias
    return {
        "num_layers": _count(values, path, "num_hidden_layers"),
        "num_q_heads": heads,
        "num_kv_heads": kv_heads,
        "embedding_dim": embedding,
        "mlp_hidden_dim": int(_count(values, path, "intermediate_size") * architecture.mlp_share),
        "head_dim": _count(values, path, "head_dim", default=embedding // heads),
        "max_position_embeddings": _count(values, path, "max_position_embeddings", default=4096),
        "vocab_size": _count(values, path, "vocab_size"),
        "use_gated_mlp": architecture.gated,
        "use_qkv_bias": bias if bias is not None else any(values.get(key) is True for key in QKV_BIAS_KEYS),
        "post_attn_norm": architecture.post_attn_norm,
    }


def _read(path: Path) -> Mapping[str, Any]:
    values = load_document(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object that describes a model")
    return values


def _refuse_other_kinds(values: Mapping[str, Any], path: Path) -> None:
    """Raise InputError for a model that is not a dense decoder."""
    names = " ".join(map(str, values.get("architectures") or ())) or str(values.get("model_type", "model"))
    remedy = "only dense decoders are simulated"
    if any(isinstance(values.get(key), int) and values[key] > 1 for key in EXPERT_KEYS) or "moe" in names.lower():
        raise InputError(f"{path}: {names} is a mixture of experts: {remedy}")
    if values.get("is_encoder_decoder") or (values.get("architectures") and not _is_decoder(values)):
        raise InputError(f"{path}: {names} is not a causal decoder: {remedy}")
    if any(key in values for key in ("text_config", "vision_config", "audio_config")):
        raise InputError(f"{path}: {names} is multimodal: {remedy}; give the text model's own configuration")
    if any(key in values for key in STATE_SPACE_KEYS) or "linear_attention" in (values.get("layer_types") or ()):
        raise InputError(f"{path}: {names} has layers without attention: {remedy}")
    if values.get("kv_lora_rank"):
        raise InputError(f"{path}: {names} compresses its KV-cache (MLA): {remedy} with whole keys and values")
    if values.get("quantization_config"):
        raise InputError(f"{path}: {names} is quantized: only 16-bit weights are simulated; take the original model's")


def _is_decoder(values: Mapping[str, Any]) -> bool:
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in values["architectures"])


def _architecture(values: Mapping[str, Any], path: Path) -> Architecture:
    """Return the known architecture (by model_type if none is named), or a gated one if the activation implies it."""
    names = [str(name) for name in values.get("architectures") or ()]
    model_type = str(values.get("model_type", "")).replace("_", "").lower()
    for name, architecture in ARCHITECTURES.items():
        if name in names or (not names and name.lower() == f"{model_type}forcausallm"):
            return architecture
    activation = values.get("hidden_act", values.get("hidden_activation"))
    if activation in GATED_ACTIVATIONS:
        return Architecture()
    name = " ".join(names) or model_type or "(none named)"
    raise InputError(
        f"{path}: unknown architecture {name} with the activation {activation}: cannot tell whether "
        f"its MLP is gated; known: {', '.join(sorted(ARCHITECTURES))}"
    )


def _count(values: Mapping[str, Any], path: Path, key: str, default: int | None = None) -> int:
    """Return a positive integer of the file, or the default if the key is absent or null."""
    value = values.get(key)
    if value is None:
        value = default
    if value is None:
        raise InputError(f"{path}: {key} is missing: a dense decoder's config.json has it")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: {key} must be a positive integer, not {value!r}")
    return value
