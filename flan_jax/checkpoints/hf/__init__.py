"""Hugging Face's format: config.json, safetensors or PyTorch files, tokenizer files."""

from flan_jax.checkpoints.hf.config import config_from_hf, config_to_hf, read_hf_config
from flan_jax.checkpoints.hf.hub import is_hub_path, resolve
from flan_jax.checkpoints.hf.layout import check_layout, hf_infos, hf_layout
from flan_jax.checkpoints.hf.load import load_hf, read_safetensors
from flan_jax.checkpoints.hf.model import HfModel, open_hf_model
from flan_jax.checkpoints.hf.weights import HfReader, open_hf
from flan_jax.checkpoints.hf.writer import HfWriter, create_hf

__all__ = [
    "HfModel",
    "HfReader",
    "HfWriter",
    "check_layout",
    "config_from_hf",
    "config_to_hf",
    "create_hf",
    "hf_infos",
    "hf_layout",
    "is_hub_path",
    "load_hf",
    "open_hf",
    "open_hf_model",
    "read_hf_config",
    "read_safetensors",
    "resolve",
]
