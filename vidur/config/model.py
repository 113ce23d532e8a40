"""Models: known by name, or any dense decoder with a Hugging Face config.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vidur.config.hugging_face import read_hugging_face_config
from vidur.errors import InputError, known_name, unknown_name


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a dense decoder. post_attn_norm: a second norm before the MLP (false if attention and MLP run in
    parallel on one norm). As upstream, only the layers are timed and planned for.
    """

    name: str
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    embedding_dim: int
    mlp_hidden_dim: int
    head_dim: int
    max_position_embeddings: int
    vocab_size: int
    use_gated_mlp: bool = True
    use_qkv_bias: bool = False
    post_attn_norm: bool = True

    @property
    def is_grouped_query(self) -> bool:
        return self.num_kv_heads < self.num_q_heads

    @staticmethod
    def from_name(name: str, where: str = "--replica_config_model_name") -> ModelConfig:
        """Return the model of a name, or of a config.json at that path or in that folder.

        Raises InputError if neither exists, or the file does not describe a dense decoder.
        """
        if (known := known_name(name, MODELS)) is not None:
            return MODELS[known]
        path = Path(name).expanduser()
        if path.is_dir():
            path = path / "config.json"
        if path.is_file():
            return ModelConfig(name, **read_hugging_face_config(path))
        if name.endswith(".json") or name.startswith((".", "/", "~")) or Path(name).is_dir():
            raise InputError(f"{where}: no model configuration at {path}")
        raise unknown_name(
            where, name, MODELS, remedy="; or the path of any dense decoder's config.json (Hugging Face)"
        )


def _model(
    name: str, layers: int, q_heads: int, kv_heads: int, embedding: int, mlp: int, positions: int, vocab: int,
    *, gated: bool = True, qkv_bias: bool = False, post_attn_norm: bool = True,
) -> ModelConfig:  # fmt: skip
    return ModelConfig(
        name=name,
        num_layers=layers,
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        embedding_dim=embedding,
        mlp_hidden_dim=mlp,
        head_dim=embedding // q_heads,
        max_position_embeddings=positions,
        vocab_size=vocab,
        use_gated_mlp=gated,
        use_qkv_bias=qkv_bias,
        post_attn_norm=post_attn_norm,
    )


@lru_cache(maxsize=1)
def _known_models() -> dict[str, ModelConfig]:
    upstream = [
        _model("codellama/CodeLlama-34b-Instruct-hf", 48, 64, 8, 8192, 22016, 16384, 32768),
        _model("meta-llama/Llama-2-7b-hf", 32, 32, 32, 4096, 11008, 4096, 32768),
        _model("meta-llama/Llama-2-70b-hf", 80, 64, 8, 8192, 28672, 4096, 32768),
        _model("meta-llama/Meta-Llama-3-8B", 32, 32, 8, 4096, 14336, 4096, 128256),
        _model("meta-llama/Meta-Llama-3-70B", 80, 64, 8, 8192, 28672, 8192, 128256),
        _model("internlm/internlm-20b", 60, 40, 40, 5120, 13824, 4096, 103168),
        _model("internlm/internlm2-20b", 48, 48, 8, 6144, 16384, 32768, 92544),
        _model(
            "microsoft/phi-2", 32, 32, 32, 2560, 10240, 2048, 51200, gated=False, qkv_bias=True, post_attn_norm=False
        ),
        _model("Qwen/Qwen-72B", 80, 64, 64, 8192, 24576, 32768, 152064, qkv_bias=True),
    ]
    llama = [
        _model(f"meta-llama/{prefix}Llama-3.1-{size}{suffix}", *shape, 131072, 128256)
        for prefix in ("", "Meta-")
        for suffix in ("", "-Instruct")
        for size, shape in (("8B", (32, 32, 8, 4096, 14336)), ("70B", (80, 64, 8, 8192, 28672)))
    ]
    qwen = [
        _model(f"Qwen/Qwen2.5-{size}{suffix}", *shape, positions, 152064, qkv_bias=True)
        for suffix, positions in (("", 131072), ("-Instruct", 32768))
        for size, shape in (("7B", (28, 28, 4, 3584, 18944)), ("72B", (80, 64, 8, 8192, 29568)))
    ]
    mistral = [
        _model(f"mistralai/Mistral-7B{kind}-v0.{version}", 32, 32, 8, 4096, 14336, 32768, vocab)
        for kind in ("", "-Instruct")
        for version, vocab in ((1, 32000), (2, 32000), (3, 32768))
        if (kind, version) != ("", 2)
    ]
    return {model.name: model for model in (*upstream, *llama, *qwen, *mistral)}


MODELS = _known_models()
